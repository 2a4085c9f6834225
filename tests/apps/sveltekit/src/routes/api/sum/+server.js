import { error, json } from '@sveltejs/kit';

export function GET({ url }) {
  const [a, b] = ['a', 'b'].map(name => Number(url.searchParams.get(name)));
  if (Number.isNaN(a + b)) error(400, 'numbers, please');
  return json({ sum: a + b });
}
