// The public server, and metrics for Prometheus on a port of their own.
import express from 'express';
import client from 'prom-client';

client.collectDefaultMetrics();
const requests = new client.Counter({ name: 'zoo_requests_total', help: 'Requests to the public server' });

const app = express();
app.use((req, res, next) => {
  requests.inc();
  next();
});
app.get('/', (req, res) => res.send('the public server'));
app.listen(process.env.PORT || 3000);

const metrics = express();
metrics.get('/metrics', async (req, res) => {
  res.type(client.register.contentType).send(await client.register.metrics());
});
metrics.get('/', (req, res) => res.send('the server for metrics'));
metrics.listen(process.env.METRICS_PORT || 9464);
