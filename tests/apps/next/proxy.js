import { NextResponse } from 'next/server';

export function proxy(request) {
  if (request.nextUrl.pathname === '/private') return NextResponse.redirect(new URL('/?from=private', request.url));
  const answer = NextResponse.next();
  answer.headers.set('x-through', 'middleware');
  return answer;
}

export const config = { matcher: ['/private', '/dynamic'] };
