import { type RouteConfig, index, route } from '@react-router/dev/routes';

export default [index('routes/home.tsx'), route('api/sum', 'routes/sum.ts'), route('old', 'routes/old.ts')] satisfies RouteConfig;
