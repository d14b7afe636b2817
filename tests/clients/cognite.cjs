// @cognite/sdk 10.5.0, unmodified: files whole and in parts, read, changed and deleted. The first request goes without a
// token; the client asks for one after a 401.
'use strict';

const crypto = require('node:crypto');
const { CogniteClient } = require('@cognite/sdk');
const { assert, check } = require('./checks.cjs');

const key = process.env.LANDFALL_KEY;
const tokenUrl = process.env.LANDFALL_TOKEN_URL;
const project = process.env.LANDFALL_TENANT;
const baseUrl = process.env.LANDFALL_URL + (process.argv[2] ?? '');
const run = `js${(process.argv[2] ?? '').replace('/', '-')}${tokenUrl ? '-oidc' : ''}`;
const named = (name) => `cognite js${process.argv[2] ?? ''}${tokenUrl ? ' with a token' : ''}: ${name}`;

/** A token by client credentials, from the provider. */
async function fetchToken() {
  const { LANDFALL_CLIENT_ID: id, LANDFALL_CLIENT_SECRET: secret, LANDFALL_AUDIENCE: resource } = process.env;
  const response = await fetch(tokenUrl, {
    method: 'POST',
    body: new URLSearchParams({ grant_type: 'client_credentials', client_id: id, client_secret: secret, resource }),
  });
  return (await response.json()).access_token;
}

function client(oidcTokenProvider = tokenUrl ? fetchToken : async () => key) {
  return new CogniteClient({ appId: 'tests', project, baseUrl, oidcTokenProvider });
}

/** What a download link of a file leads to. */
async function content(sdk, id) {
  const [{ downloadUrl }] = await sdk.files.getDownloadUrls([id]);
  const response = await fetch(downloadUrl);
  assert.equal(response.status, 200);
  return Buffer.from(await response.arrayBuffer());
}

async function main() {
  const sdk = client();
  const externalId = `${run}-file`;

  await check(named('upload'), async () => {
    const info = { name: 'a.txt', externalId, mimeType: 'text/plain', source: 's', metadata: { k: 'v' } };
    const made = await sdk.files.upload(info, 'some text', false, true);
    assert.ok(made.id && made.name === 'a.txt');
    const [found] = await sdk.files.retrieve([{ externalId }]);
    assert.equal(found.uploaded, true);
    assert.ok(found.uploadedTime instanceof Date);
    assert.equal(String(await content(sdk, { externalId })), 'some text');
    await assert.rejects(sdk.files.upload(info, 'other'), (error) => error.status === 409);
    const again = await sdk.files.upload({ ...info, source: 't' }, Buffer.from('anew'), true, true);
    assert.deepEqual([again.id, again.source], [made.id, 't']);
    assert.equal(String(await content(sdk, { id: made.id })), 'anew');
  });

  await check(named('multipartUploadSession'), async () => {
    const parts = [crypto.randomBytes(5 * 1024 * 1024), crypto.randomBytes(5 * 1024 * 1024), Buffer.from('end')];
    const session = await sdk.files.multipartUploadSession({ name: 'parts', externalId: `${run}-parts` }, 3);
    await session.uploadPart(2, parts[2]);
    await Promise.all([session.uploadPart(0, parts[0]), session.uploadPart(1, parts[1])]);
    const got = await content(sdk, { externalId: `${run}-parts` });
    assert.ok(got.equals(Buffer.concat(parts)));
  });

  await check(named('list, search, aggregate'), async () => {
    const filter = { externalIdPrefix: `${run}-` };
    const all = await sdk.files.list({ filter, limit: 1 }).autoPagingToArray();
    assert.deepEqual(all.map((file) => file.externalId), [externalId, `${run}-parts`]);
    const found = await sdk.files.search({ search: { name: 'A.TXT' }, filter });
    assert.deepEqual(found.map((file) => file.name), ['a.txt']);
    const [{ count }] = await sdk.files.aggregate({ filter });
    assert.equal(count, 2);
  });

  await check(named('update'), async () => {
    const update = { source: { setNull: true }, metadata: { add: { n: '1' }, remove: ['k'] } };
    const [changed] = await sdk.files.update([{ externalId, update }]);
    assert.equal(changed.source, undefined);
    assert.deepEqual(changed.metadata, { n: '1' });
  });

  await check(named('delete'), async () => {
    await sdk.files.delete([{ externalId }, { externalId: `${run}-parts` }]);
    await assert.rejects(sdk.files.retrieve([{ externalId }]), (error) => error.status === 400 && error.missing.length === 1);
  });

  await check(named('a token that does not hold'), async () => {
    await assert.rejects(client(async () => 'nonsense').files.list().autoPagingToArray({ limit: 1 }), (error) => error.status === 401 || /token|401/i.test(error.message));
  });
}

main().then(() => process.exit(process.exitCode ?? 0));
