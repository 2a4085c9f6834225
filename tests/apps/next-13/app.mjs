import { next } from '../lib/next.mjs';

// Of its sources only these differ. It renders in processes of its own, each with a server on any port.
export default { what: 'Next.js 13.4.7', like: 'next', ...next };
