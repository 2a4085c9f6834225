// Server actions were an experiment then.
export default function Page() {
  return <p>no action</p>;
}
