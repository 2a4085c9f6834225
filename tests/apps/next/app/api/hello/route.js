import { NextResponse } from 'next/server';

export async function GET(request) {
  const { searchParams } = new URL(request.url);
  return NextResponse.json({ hello: searchParams.get('name') ?? 'next' });
}

export async function POST(request) {
  const body = await request.json();
  const answer = NextResponse.json({ got: body }, { status: 201 });
  answer.cookies.set('seen', '1', { httpOnly: true });
  return answer;
}
