import { cookies, headers } from 'next/headers';

export const dynamic = 'force-dynamic';

export default async function Page() {
  const [jar, head] = [await cookies(), await headers()];
  return (
    <p>
      rendered for {jar.get('name')?.value ?? 'nobody'} of {head.get('x-zoo') ?? 'nowhere'} at {head.get('host')?.replace(/:\d+/, '')}
    </p>
  );
}
