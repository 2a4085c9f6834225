const standalone = Boolean(process.env.STANDALONE);

module.exports = {
  output: standalone ? 'standalone' : undefined,
  distDir: standalone ? '.next-standalone' : '.next',
  // No identifier of this build in what is compared.
  generateBuildId: () => 'zoo',
  outputFileTracingRoot: __dirname,
  async redirects() {
    return [{ source: '/old', destination: '/', permanent: true }];
  },
  async rewrites() {
    return [{ source: '/hello', destination: '/api/hello' }];
  },
};
