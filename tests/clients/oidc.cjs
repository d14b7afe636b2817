// The tokens of a published OpenID Connect provider let its clients in, on every API; see issuer.cjs.
'use strict';

const { Issuer, audience, newKey, trust } = require('./issuer.cjs');
const { assert, check } = require('./checks.cjs');

const base = process.env.LANDFALL_URL;
const tenant = process.env.LANDFALL_TENANT;

async function ask(token, method, path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers['Content-Type'] = 'application/json';
  const response = await fetch(`${base}${path}`, { method, headers, body: body && JSON.stringify(body) });
  await response.text();
  return response;
}

const status = async (token) => (await ask(token, 'GET', '/landfall/v1/usage')).status;

(async () => {
  // It warns about what is for development alone; its words are no checks.
  console.warn = () => {};
  console.info = () => {};
  const issuer = await Issuer.start();
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
      const other = await Issuer.start();
      other.become([one, newKey('other', alg)], { alg });
      trust(other, '--rights', 'all');
      assert.equal(await status(await other.token()), 401);
      trust(other, '--rights', 'all', '--algorithms', alg);
      assert.equal(await status(await other.token()), 200);
      other.stop();
    });
  }

  await check('oidc a provider that was never reached is a 503', async () => {
    const gone = await Issuer.start();
    gone.become([one]);
    const token = await gone.token();
    trust(gone, '--rights', 'all');
    gone.down();
    const response = await ask(token, 'GET', '/landfall/v1/usage');
    assert.equal(response.status, 503);
    assert.ok(Number(response.headers.get('retry-after')) > 0);
    gone.stop();
  });

  issuer.stop();
})();
