import { Suspense } from 'react';

export const dynamic = 'force-dynamic';

async function Slow() {
  await new Promise(resolve => setTimeout(resolve, 100));
  return <p>came later</p>;
}

export default function Page() {
  return (
    <Suspense fallback={<p>came at once</p>}>
      <Slow />
    </Suspense>
  );
}
