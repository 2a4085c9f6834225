// As Apollo's documentation has it for subscriptions.
import { createServer } from 'node:http';
import { ApolloServer } from '@apollo/server';
import { ApolloServerPluginDrainHttpServer } from '@apollo/server/plugin/drainHttpServer';
import { expressMiddleware } from '@as-integrations/express5';
import { makeExecutableSchema } from '@graphql-tools/schema';
import cors from 'cors';
import express from 'express';
import { PubSub } from 'graphql-subscriptions';
import { WebSocketServer } from 'ws';
import { useServer } from 'graphql-ws/use/ws';

const typeDefs = `#graphql
  type Book { title: String, author: String }
  type Query { books: [Book], worker: Int }
  type Mutation { addBook(title: String!): Book }
  type Subscription { countdown(from: Int!): Int, bookAdded: Book }
`;

const pubsub = new PubSub();
const resolvers = {
  Query: {
    books: () => [{ title: 'The Awakening', author: 'Kate Chopin' }],
    worker: () => process.pid,
  },
  Mutation: {
    addBook(_, { title }) {
      const book = { title, author: 'zoo' };
      pubsub.publish('BOOK_ADDED', { bookAdded: book });
      return book;
    },
  },
  Subscription: {
    countdown: {
      async *subscribe(_, { from }) {
        for (let i = from; i >= 0; i--) {
          await new Promise(resolve => setTimeout(resolve, 20));
          yield { countdown: i };
        }
      },
    },
    bookAdded: { subscribe: () => pubsub.asyncIterableIterator(['BOOK_ADDED']) },
  },
};

const schema = makeExecutableSchema({ typeDefs, resolvers });
const app = express();
const httpServer = createServer(app);
const wsServer = new WebSocketServer({ server: httpServer, path: '/graphql' });
const serverCleanup = useServer({ schema }, wsServer);

const server = new ApolloServer({
  schema,
  plugins: [
    ApolloServerPluginDrainHttpServer({ httpServer }),
    {
      async serverWillStart() {
        return {
          async drainServer() {
            await serverCleanup.dispose();
          },
        };
      },
    },
  ],
});

await server.start();
app.use('/graphql', cors(), express.json(), expressMiddleware(server));
const PORT = process.env.PORT ?? 4000;
httpServer.listen(PORT, () => console.log(`Server is now running on http://localhost:${PORT}/graphql`));
