export default defineNuxtConfig({
  compatibilityDate: '2026-01-01',
  devtools: { enabled: false },
  telemetry: false,
  buildId: 'zoo',
  nitro: { experimental: { websocket: true } },
  routeRules: { '/old': { redirect: '/' }, '/cached': { headers: { 'cache-control': 's-maxage=60' } } },
});
