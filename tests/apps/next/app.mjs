import { next } from '../lib/next.mjs';

export default { what: 'Next.js 16', ...next };
