import express, { Request, Response } from 'express';

const app = express();
app.use(express.json());
app.get('/', (_request: Request, response: Response) => {
  response.send('Hello from TypeScript');
});
app.post('/sum', (request: Request<unknown, unknown, { numbers: number[] }>, response: Response) => {
  response.json({ sum: request.body.numbers.reduce((a, b) => a + b, 0) });
});

const port = process.env.PORT || 3000;
app.listen(port, () => console.log(`Listening on ${port}`));
