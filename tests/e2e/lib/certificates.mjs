// Certificates for tests, made by openssl, and TLS clients that say what they got.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import tls from 'node:tls';

const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });

/** An authority of the test's own, in `dir`. */
export function authority(dir, name = 'ca') {
  mkdirSync(dir, { recursive: true });
  const at = ending => path.join(dir, `${name}.${ending}`);
  openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', at('key'));
  openssl('req', '-x509', '-new', '-key', at('key'), '-subj', `/CN=${name}`, '-days', '30', '-out', at('pem'));
  return { dir, name, cert: at('pem'), key: at('key'), pem: readFileSync(at('pem'), 'utf8') };
}

/** A certificate of `ca`: `names` of a server, or a client's `subject`. `end`: days from now, may be negative. */
export function issue(ca, file, { names = [], rsa = false, subject = `/CN=${names[0] ?? file}`, days = 30 } = {}) {
  const at = ending => path.join(ca.dir, `${file}.${ending}`);
  if (rsa) openssl('genrsa', '-out', at('key'), '2048');
  else openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', at('key'));
  openssl('req', '-new', '-key', at('key'), '-subj', subject, '-out', at('csr'));
  const alternative = names.map(name => (/^[\d.:]+$/.test(name) ? `IP:${name}` : `DNS:${name}`)).join(',');
  writeFileSync(at('ext'), names.length > 0 ? `subjectAltName=${alternative}\n` : 'extendedKeyUsage=clientAuth\n');
  const signed = ['x509', '-req', '-in', at('csr'), '-CA', ca.cert, '-CAkey', ca.key, '-CAcreateserial', '-days', String(days)];
  openssl(...signed, '-extfile', at('ext'), '-out', at('pem'));
  const [cert, key] = [at('pem'), at('key')];
  return { cert, key, pem: readFileSync(cert, 'utf8'), keyPem: readFileSync(key, 'utf8') };
}

/** A list in which `ca` revokes these certificates. */
export function revocations(ca, file, ...certificates) {
  const at = ending => path.join(ca.dir, `${file}.${ending}`);
  writeFileSync(at('index'), '');
  writeFileSync(at('number'), '01\n');
  const keys = [`database=${at('index')}`, `crlnumber=${at('number')}`, 'default_md=sha256', 'default_crl_days=30', 'crl_extensions=x'];
  writeFileSync(at('cnf'), ['[ca]', 'default_ca=a', '[a]', ...keys, '[x]', 'authorityKeyIdentifier=keyid:always', ''].join('\n'));
  const common = ['-config', at('cnf'), '-cert', ca.cert, '-keyfile', ca.key];
  for (const { cert } of certificates) openssl('ca', ...common, '-revoke', cert);
  openssl('ca', ...common, '-gencrl', '-out', at('pem'));
  return at('pem');
}

/** One handshake: what certificate it was, by names, kind of key and fingerprint. */
export function handshake(port, { servername, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: '127.0.0.1', port, servername: servername ?? '', rejectUnauthorized: false, ...options });
    socket.setTimeout(5000, () => socket.destroy(new Error('no handshake within 5 s')));
    socket.once('error', reject);
    socket.once('secureConnect', () => {
      const { subjectaltname = '', asn1Curve, fingerprint256 } = socket.getPeerCertificate();
      const names = subjectaltname.split(', ').map(name => name.replace(/^DNS:/, ''));
      resolve({ names, kind: asn1Curve ? 'ecdsa' : 'rsa', fingerprint: fingerprint256, version: socket.getProtocol(), reused: socket.isSessionReused() });
      socket.destroy();
    });
  });
}

/** One request over TLS. `options` go to https.request; `host` is the field of that name. */
export function ask(port, { path: at = '/pid', servername, host = servername, headers, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const all = { host: '127.0.0.1', port, path: at, agent: false, rejectUnauthorized: false, servername: servername ?? '', timeout: 10_000, ...options };
    const asking = https.request({ ...all, headers: { ...(host ? { host } : {}), ...headers } }, answer => {
      let text = '';
      answer.setEncoding('utf8').on('data', data => (text += data));
      answer.once('error', reject);
      answer.once('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text, reused: asking.reusedSocket }));
    });
    asking.once('timeout', () => asking.destroy(new Error('no answer within 10 s')));
    asking.once('error', reject);
    asking.end();
  });
}
