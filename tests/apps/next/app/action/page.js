import { redirect } from 'next/navigation';

async function store(data) {
  'use server';
  redirect(`/dynamic?by=${data.get('name')}`);
}

export default function Page() {
  return (
    <form action={store}>
      <input name="name" />
    </form>
  );
}
