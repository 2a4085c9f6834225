import { Suspense } from 'react';
import { Await, Form } from 'react-router';

export const meta = () => [{ title: 'Zoo of React Router' }];

export async function loader({ request }: { request: Request }) {
  const later = new Promise<string>(resolve => setTimeout(() => resolve('came later'), 50));
  return { name: new URL(request.url).searchParams.get('name') ?? 'nobody', later };
}

export async function action({ request }: { request: Request }) {
  const data = await request.formData();
  return { stored: String(data.get('name')) };
}

export default function Home({ loaderData, actionData }: { loaderData: { name: string; later: Promise<string> }; actionData?: { stored: string } }) {
  return (
    <main>
      <h1>React Router rendered this for {loaderData.name}</h1>
      {actionData ? <p>stored {actionData.stored}</p> : null}
      <Suspense fallback={<p>waits</p>}>
        <Await resolve={loaderData.later}>{text => <p>{text}</p>}</Await>
      </Suspense>
      <Form method="post">
        <input name="name" />
      </Form>
    </main>
  );
}
