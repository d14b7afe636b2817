// A published OpenID Connect provider, unmodified, as the issuer that a tenant trusts: its tokens let its clients in.
'use strict';

const { execFileSync } = require('node:child_process');
const { generateKeyPairSync } = require('node:crypto');
const { createServer } = require('node:http');
const { pathToFileURL } = require('node:url');
const { assert, check } = require('./checks.cjs');

const base = process.env.LANDFALL_URL;
const tenant = process.env.LANDFALL_TENANT;
const client = { client_id: 'uploader', client_secret: 'a-secret-of-the-test-alone' };
const audience = 'urn:landfall';

/** A private key as the provider takes it. */
function newKey(kid, alg) {
  const pair = alg === 'ES256'
    ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
    : alg === 'EdDSA' ? generateKeyPairSync('ed25519') : generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...pair.privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' };
}

/** The provider on a port that stays; `become` makes it another with other keys. */
class Issuer {
  static async start(Provider) {
    const issuer = new Issuer();
    issuer.Provider = Provider;
    issuer.keyCalls = 0;
    issuer.handler = (request, response) => response.writeHead(503).end();
    const server = createServer((request, response) => {
      if (request.url.startsWith('/jwks')) issuer.keyCalls += 1;
      issuer.handler(request, response);
    });
    issuer.server = server;
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    issuer.url = `http://127.0.0.1:${server.address().port}`;
    return issuer;
  }

  become(keys, { alg = 'RS256', life = 600 } = {}) {
    const provider = new this.Provider(this.url, {
      clients: [{
        ...client, grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
      }],
      jwks: { keys },
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: false },
        resourceIndicators: {
          enabled: true,
          getResourceServerInfo: (ctx, resource) => ({
            scope: 'files:write files:read',
            audience: resource,
            accessTokenFormat: 'jwt',
            accessTokenTTL: life,
            jwt: { sign: { alg } },
          }),
        },
      },
    });
    this.handler = provider.callback();
  }

  down() {
    this.handler = (request, response) => response.writeHead(503).end();
  }

  async token(resource = audience, scope = '') {
    const response = await fetch(`${this.url}/token`, {
      method: 'POST',
      headers: { Authorization: `Basic ${Buffer.from(`${client.client_id}:${client.client_secret}`).toString('base64')}` },
      body: new URLSearchParams({ grant_type: 'client_credentials', resource, ...(scope && { scope }) }),
    });
    const body = await response.json();
    assert.equal(response.status, 200, JSON.stringify(body));
    assert.equal(body.access_token.split('.').length, 3);
    return body.access_token;
  }
}

function trust(issuer, ...more) {
  const set = ['admin', 'tenant', 'oidc', 'set', tenant, '--issuer', issuer.url, '--audience', audience];
  const place = ['--data', process.env.LANDFALL_DATA];
  return JSON.parse(execFileSync(process.env.LANDFALL_PROGRAM, [...set, ...more, ...place], { encoding: 'utf8' }));
}

async function ask(token, method, path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers['Content-Type'] = 'application/json';
  const response = await fetch(`${base}${path}`, { method, headers, body: body && JSON.stringify(body) });
  await response.text();
  return response;
}

const status = async (token) => (await ask(token, 'GET', '/landfall/v1/usage')).status;

(async () => {
  // The package is a module, which NODE_PATH does not lead to.
  const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));
  // It warns about what is for development alone; its words are no checks.
  console.warn = () => {};
  console.info = () => {};
  const issuer = await Issuer.start(Provider);
  const one = newKey('one', 'RS256');
  issuer.become([one]);
  trust(issuer, '--rights', 'all');

  await check('oidc client credentials let a client in on every API', async () => {
    const token = await issuer.token();
    assert.equal(await status(token), 200);
    const organization = `organizations/${tenant}`;
    assert.equal((await ask(token, 'POST', `/push/v1/${organization}/files`)).status, 201);
    assert.equal((await ask(token, 'GET', `/v1/${organization}/knowledge/stores`)).status, 200);
    const made = await ask(token, 'POST', '/landfall/v1/uploads', { name: 'a.txt', size: 3 });
    assert.equal(made.status, 201);
    // One call, or few where the machine is slow and the keys' life is over: not one for each request.
    assert.ok(issuer.keyCalls >= 1 && issuer.keyCalls <= 2, `${issuer.keyCalls} calls for keys`);
  });

  await check('oidc a token for another audience does not', async () => {
    assert.equal(await status(await issuer.token('urn:other')), 401);
  });

  await check('oidc a changed token does not', async () => {
    const [head, claims, signature] = (await issuer.token()).split('.');
    const changed = JSON.parse(Buffer.from(claims, 'base64url'));
    changed.sub = 'admin';
    const forged = Buffer.from(JSON.stringify(changed)).toString('base64url');
    assert.equal(await status(`${head}.${forged}.${signature}`), 401);
    assert.equal(await status(`${head}.${claims}.`), 401);
  });

  await check('oidc keys rotate: a new one is looked for once', async () => {
    const before = await issuer.token();
    const calls = issuer.keyCalls;
    issuer.become([newKey('two', 'RS256'), one]);
    const after = await issuer.token();
    assert.notEqual(before.split('.')[0], after.split('.')[0]);
    assert.equal(await status(after), 200);
    assert.equal(await status(before), 200);
    const more = issuer.keyCalls - calls;
    assert.ok(more >= 1 && more <= 2, `${more} calls for keys`);
  });

  await check('oidc what was valid stays so while the provider is down', async () => {
    const token = await issuer.token();
    issuer.down();
    assert.equal(await status(token), 200);
  });

  await check('oidc rights by scope', async () => {
    issuer.become([one]);
    trust(issuer, '--claim', 'scope', '--map', 'files:read=read', '--map', 'files:write=upload,read');
    const upload = async (token) => (await ask(token, 'POST', '/landfall/v1/uploads', { name: 'b.txt', size: 3 })).status;
    const reading = await issuer.token(audience, 'files:read');
    assert.deepEqual([await status(reading), await upload(reading)], [200, 403]);
    const writing = await issuer.token(audience, 'files:read files:write');
    assert.deepEqual([await status(writing), await upload(writing)], [200, 201]);
    assert.equal(await status(await issuer.token()), 403);
  });

  await check('oidc a token ends', async () => {
    issuer.become([one], { life: 2 });
    trust(issuer, '--rights', 'all', '--leeway', '0');
    const token = await issuer.token();
    let seen;
    for (let tries = 0; tries < 300; tries += 1) {
      seen = await status(token);
      if (seen === 401) break;
      assert.equal(seen, 200);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal(seen, 401);
  });

  for (const alg of ['ES256', 'PS256', 'EdDSA']) {
    await check(`oidc ${alg} where it is asked for, and nowhere else`, async () => {
      const other = await Issuer.start(Provider);
      other.become([one, newKey('other', alg)], { alg });
      trust(other, '--rights', 'all');
      assert.equal(await status(await other.token()), 401);
      trust(other, '--rights', 'all', '--algorithms', alg);
      assert.equal(await status(await other.token()), 200);
      other.server.close();
      other.server.closeAllConnections();
    });
  }

  await check('oidc a provider that was never reached is a 503', async () => {
    const gone = await Issuer.start(Provider);
    gone.become([one]);
    const token = await gone.token();
    trust(gone, '--rights', 'all');
    gone.down();
    const response = await ask(token, 'GET', '/landfall/v1/usage');
    assert.equal(response.status, 503);
    assert.ok(Number(response.headers.get('retry-after')) > 0);
    gone.server.close();
    gone.server.closeAllConnections();
  });

  issuer.server.close();
  issuer.server.closeAllConnections();
})();
