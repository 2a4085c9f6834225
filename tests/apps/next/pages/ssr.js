export async function getServerSideProps({ query }) {
  return { props: { name: query.name ?? 'nobody' } };
}

export default function Page({ name }) {
  return <p>the pages router rendered this for {name}</p>;
}
