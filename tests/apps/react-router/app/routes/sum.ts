export function loader({ request }: { request: Request }) {
  const { searchParams } = new URL(request.url);
  return Response.json({ sum: Number(searchParams.get('a')) + Number(searchParams.get('b')) });
}
