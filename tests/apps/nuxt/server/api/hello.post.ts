export default defineEventHandler(async event => {
  const body = await readBody(event);
  setResponseStatus(event, 201);
  setCookie(event, 'seen', '1');
  return { got: body };
});
