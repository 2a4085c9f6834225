// Which certificate is served, and what becomes of it when its files change.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import test from 'node:test';
import { ask, authority, handshake, issue } from './lib/certificates.mjs';
import { request } from './lib/http.mjs';
import { withListener } from './lib/listener.mjs';
import { BIN, configure, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { refuse, succeed } from './lib/steer.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 90_000, ...needsProxy };
const app = { script: './http.js' };
/** A renewed certificate is served within this. */
const RENEWED = { timeout: 10_000, every: 100 };

/** A proxy with a plain listener and one with TLS, whose port is `proxy.tls`. */
async function secure(make, body) {
  const port = await freePort();
  const config = proxy => {
    const { tls, ...rest } = make(proxy);
    const listeners = [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${port}`, tls }];
    return { apps: { web: app }, listeners, state_dir: proxy.file('state'), ...rest };
  };
  await withProxy(config, proxy => {
    proxy.tls = port;
    proxy.again = changed => configure(proxy, config({ ...proxy, ...changed, file: proxy.file.bind(proxy) }));
    return body(proxy);
  });
}

const files = ({ cert, key }) => ({ cert, key });
const ca = proxy => authority(path.dirname(proxy.file('certs/ca.pem', '')));

test('the name that a client asks for chooses the certificate, then what the client can verify', options, async () => {
  let made;
  const tls = proxy => {
    const own = ca(proxy);
    made = {
      ecdsa: issue(own, 'ecdsa', { names: ['chat.example.com'] }),
      rsa: issue(own, 'rsa', { names: ['chat.example.com'], rsa: true }),
      wildcard: issue(own, 'wildcard', { names: ['*.example.org'] }),
    };
    return { tls: { certificates: [made.rsa, made.ecdsa, made.wildcard].map(files) } };
  };
  await secure(tls, async proxy => {
    const got = async options => {
      const { names, kind, version } = await handshake(proxy.tls, options);
      return `${names} ${kind} ${version}`;
    };
    const RSA = 'rsa_pss_rsae_sha256:rsa_pkcs1_sha256';
    assert.equal(await got({ servername: 'chat.example.com' }), 'chat.example.com ecdsa TLSv1.3');
    assert.equal(await got({ servername: 'chat.example.com', sigalgs: RSA }), 'chat.example.com rsa TLSv1.3');
    assert.equal(await got({ servername: 'chat.example.com', maxVersion: 'TLSv1.2' }), 'chat.example.com ecdsa TLSv1.2');
    const old = { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-RSA-AES128-GCM-SHA256' };
    assert.equal(await got({ servername: 'chat.example.com', ...old }), 'chat.example.com rsa TLSv1.2');
    assert.equal(await got({ servername: 'CHAT.example.com' }), 'chat.example.com ecdsa TLSv1.3');
    assert.equal(await got({ servername: 'www.example.org' }), '*.example.org ecdsa TLSv1.3');
    assert.equal(await got({ servername: 'a.www.example.org' }), 'chat.example.com ecdsa TLSv1.3', '* is one label');
    assert.equal(await got({ servername: 'nobody.example' }), 'chat.example.com ecdsa TLSv1.3', 'the default');
    assert.equal(await got({}), 'chat.example.com ecdsa TLSv1.3', 'no name');
    const trusted = readFileSync(path.join(path.dirname(made.rsa.cert), 'ca.pem'));
    const { status } = await ask(proxy.tls, { servername: 'www.example.org', ca: trusted, rejectUnauthorized: true });
    assert.equal(status, 200, 'by a client that verifies');
  });
});

test('a certificate that is replaced on disk is served within 10 s, and no connection is dropped', options, async () => {
  let own, first;
  await secure(
    proxy => {
      own ??= ca(proxy);
      first ??= issue(own, 'live', { names: ['a.example'] });
      return { tls: { certificates: [files(first)] } };
    },
    async proxy => {
      const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
      const kept = () => ask(proxy.tls, { servername: 'a.example', agent });
      assert.equal((await kept()).status, 200);
      const second = issue(own, 'next', { names: ['a.example', 'b.example'] });
      // As certbot does: one file, then the other.
      writeFileSync(first.cert, second.pem);
      writeFileSync(first.key, second.keyPem);
      await until(async () => (await handshake(proxy.tls, { servername: 'b.example' })).names.includes('b.example'), RENEWED);
      const after = await kept();
      assert.deepEqual([after.status, after.reused], [200, true], 'on the connection of before');
      agent.destroy();
      await proxy.line(/INFO.*serving a new certificate for a\.example/);
    },
  );
});

test('a bad file keeps the old certificate, with an alarm and a metric, until it is mended', options, async () => {
  let own, live;
  const metrics = await freePort();
  await withListener({}, listener =>
    secure(
      proxy => {
        own ??= ca(proxy);
        live ??= issue(own, 'live', { names: ['a.example'], days: 10 });
        const hook = { url: `http://127.0.0.1:${listener.port}/` };
        return { tls: { certificates: [files(live)] }, metrics: { address: `127.0.0.1:${metrics}` }, alarms: { webhook: hook } };
      },
      async proxy => {
        const measured = async () => (await request(metrics, { path: '/metrics' })).text;
        const { body: ends } = await listener.notice(body => body.kind === 'certificate-expires');
        assert.match(ends.detail, /^the certificate of a\.example \(ecdsa\) ends in (9|10) days, on 20/);
        const before = await handshake(proxy.tls);
        const stranger = issue(own, 'stranger', { names: ['b.example'] });
        writeFileSync(live.cert, stranger.pem);
        const { body: bad } = await listener.notice(body => body.kind === 'certificate-unreadable' && body.status === 'raised');
        assert.match(bad.detail, /live\.key holds a key that does not belong to the certificate in .*live\.pem; .*the one before it is served/);
        assert.equal((await handshake(proxy.tls)).fingerprint, before.fingerprint);
        assert.match(await measured(), /pingora_unix_proxy_certificates_unreadable 1\n/);
        // A reload says the same, and changes nothing.
        const { err } = await refuse(proxy, ['reload']);
        assert.match(err, /nothing was changed:\n.*listeners\[1\]\.tls\.certificates\[0\]\.key: .*does not belong/);
        assert.equal((await handshake(proxy.tls)).fingerprint, before.fingerprint);
        const good = issue(own, 'good', { names: ['a.example'], days: 60 });
        writeFileSync(live.cert, good.pem);
        writeFileSync(live.key, good.keyPem);
        await listener.notice(body => body.kind === 'certificate-unreadable' && body.status === 'resolved');
        await listener.notice(body => body.kind === 'certificate-expires' && body.status === 'resolved');
        assert.notEqual((await handshake(proxy.tls)).fingerprint, before.fingerprint);
        const text = await measured();
        const [, end] = /certificate_not_after_seconds\{name="a\.example",algorithm="ecdsa"\} (\d+)\n/.exec(text) ?? assert.fail(text);
        const days = (Number(end) - Date.now() / 1000) / 86_400;
        assert.ok(days > 59 && days <= 60, `${days}`);
        assert.match(text, /certificates_unreadable 0\n/);
      },
    ),
  );
});

test('the link that Kubernetes turns is followed', options, async () => {
  let own, dir;
  const volume = (version, names) => {
    const { pem, keyPem } = issue(own, version, { names });
    mkdirSync(path.join(dir, `..${version}`));
    writeFileSync(path.join(dir, `..${version}`, 'tls.crt'), pem);
    writeFileSync(path.join(dir, `..${version}`, 'tls.key'), keyPem);
    symlinkSync(`..${version}`, path.join(dir, '..data_tmp'));
    renameSync(path.join(dir, '..data_tmp'), path.join(dir, '..data'));
  };
  await secure(
    proxy => {
      if (!own) {
        own = ca(proxy);
        dir = path.dirname(proxy.file('secret/x', ''));
        volume('one', ['one.example']);
        for (const name of ['tls.crt', 'tls.key']) symlinkSync(`..data/${name}`, path.join(dir, name));
      }
      return { tls: { certificates: [{ cert: path.join(dir, 'tls.crt'), key: path.join(dir, 'tls.key') }] } };
    },
    async proxy => {
      assert.deepEqual((await handshake(proxy.tls)).names, ['one.example']);
      volume('two', ['two.example']);
      rmSync(path.join(dir, '..one'), { recursive: true });
      await until(async () => (await handshake(proxy.tls)).names[0] === 'two.example', RENEWED);
    },
  );
});

test('a reload serves another certificate at once', options, async () => {
  let own, which;
  const tls = proxy => {
    own ??= ca(proxy);
    which ??= issue(own, 'one', { names: ['one.example'] });
    return { tls: { certificates: [files(which)] } };
  };
  await secure(tls, async proxy => {
    which = issue(own, 'two', { names: ['two.example'] });
    proxy.again();
    await succeed(proxy, ['reload']);
    assert.deepEqual((await handshake(proxy.tls)).names, ['two.example']);
    // And what is in force is followed from then on.
    const three = issue(own, 'three', { names: ['three.example'] });
    writeFileSync(which.key, three.keyPem);
    writeFileSync(which.cert, three.pem);
    await until(async () => (await handshake(proxy.tls)).names[0] === 'three.example', RENEWED);
  });
});

test('self-signed: it names the hosts of the routes, and stays the same through an upgrade', options, async () => {
  const routes = [{ host: 'chat.example.com', app: 'web' }, { app: 'web' }];
  await secure(() => ({ tls: 'self-signed', routes }), async proxy => {
    const { names, fingerprint, kind } = await handshake(proxy.tls);
    assert.deepEqual(names, ['localhost', 'IP Address:127.0.0.1', 'IP Address:0:0:0:0:0:0:0:1', 'chat.example.com']);
    assert.equal(kind, 'ecdsa');
    const outcome = await proxy.upgrade();
    assert.equal(outcome.code, 0, JSON.stringify(outcome));
    assert.equal((await handshake(proxy.tls)).fingerprint, fingerprint);
  });
});

/** How the binary ends with this configuration, and what it says. */
const run = (args, dir) =>
  new Promise(resolve => {
    execFile(BIN, args, { cwd: dir, timeout: 10_000 }, (error, out, err) => resolve({ code: error ? error.code : 0, out, err }));
  });

test('-t and the start say what is wrong with a file, and what no certificate covers', options, async () => {
  let own, live;
  const routes = [{ host: 'a.example', app: 'web' }, { host: 'chat.example.com', app: 'web' }, { app: 'web' }];
  const make = proxy => {
    own ??= ca(proxy);
    live ??= issue(own, 'live', { names: ['a.example'] });
    return { tls: { certificates: [files(live)] }, routes };
  };
  await secure(make, async proxy => {
    const conf = path.join(proxy.dir, 'conf.yaml');
    const good = await run(['-t', '-c', conf], proxy.dir);
    assert.equal(good.code, 0);
    assert.match(good.out, /listeners\[1\]: no certificate covers chat\.example\.com; .*\(warning\)\n/);
    chmodSync(live.key, 0o644);
    assert.match((await run(['-t', '-c', conf], proxy.dir)).out, /readable by everybody \(mode 0644\); chmod 600 it \(warning\)\n/);
    writeFileSync(live.cert, '');
    const bad = await run(['-t', '-c', conf], proxy.dir);
    assert.equal(bad.code, 1);
    assert.match(bad.out, /live\.pem" is empty; is it still being written\?/);
    const started = await run(['-c', conf], proxy.dir);
    assert.equal(started.code, 78, JSON.stringify(started));
    assert.match(started.err, /live\.pem" is empty/);
    writeFileSync(live.cert, live.pem);
  });
});
