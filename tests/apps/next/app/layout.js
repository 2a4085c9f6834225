import './globals.css';

export const metadata = { title: 'Zoo of Next' };

export default function RootLayout({ children }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  );
}
