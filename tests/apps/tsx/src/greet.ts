export interface Guest {
  name: string;
}

export const greet = ({ name }: Guest): { hello: string } => ({ hello: name });
