// Run from the root of the repository: scripts/test has the command.
import js from '@eslint/js';

const node = Object.fromEntries(
  [
    ...['Buffer', 'SharedArrayBuffer', 'URL', 'WeakRef', 'console', 'fetch', 'global', 'module', 'performance'],
    ...['__filename', 'process', 'require'],
    ...['clearInterval', 'clearTimeout', 'setImmediate', 'setInterval', 'setTimeout'],
  ].map((name) => [name, 'readonly']),
);

export default [
  js.configs.recommended,
  {
    languageOptions: { globals: node },
    rules: {
      eqeqeq: 'error',
      'no-unused-vars': ['error', { argsIgnorePattern: '^_', caughtErrorsIgnorePattern: '^_' }],
      'no-var': 'error',
      'prefer-const': 'error',
    },
  },
  // Node 10 must be able to read it, and to skip it.
  { files: ['src/process/preload/**'], languageOptions: { sourceType: 'commonjs', ecmaVersion: 2018 } },
  // The wrapper's own half: it is not a module by itself.
  {
    files: ['src/process/preload/require.js'],
    languageOptions: { globals: { modules: 'readonly', node: 'readonly' } },
  },
];
