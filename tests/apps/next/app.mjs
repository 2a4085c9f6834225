import { next, serverAction } from '../lib/next.mjs';

export default { ...next, what: 'Next.js 16', uses: { ...next.uses, 'a form with a server action': serverAction } };
