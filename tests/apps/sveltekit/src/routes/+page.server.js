export const load = ({ cookies, url, getClientAddress }) => ({
  name: cookies.get('name') ?? 'nobody',
  query: url.searchParams.get('q') ?? '',
  client: getClientAddress().replace('::ffff:', ''),
});

export const actions = {
  default: async ({ request, cookies }) => {
    const data = await request.formData();
    cookies.set('name', String(data.get('name')), { path: '/', secure: false });
    return { stored: data.get('name') };
  },
};
