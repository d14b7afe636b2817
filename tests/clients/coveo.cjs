// @coveo/push-api-client 4.0.1, unmodified: its sixteen calls, with fields created and without, and what arrived.
'use strict';

const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const zlib = require('node:zlib');
const {
  CatalogSource,
  DocumentBuilder,
  PermissionSetBuilder,
  PushSource,
  SourceVisibility,
  UserSecurityIdentityBuilder,
} = require('@coveo/push-api-client');
const { assert, check, native, settled, ids, item, content } = require('./checks.cjs');

const key = process.env.LANDFALL_KEY;
const tenant = process.env.LANDFALL_TENANT;
const options = { retryAfter: 50, maxRetries: 10 };

/** The requests that a call makes. */
async function during(body) {
  const from = globalThis.requests.length;
  const result = await body();
  return { result, requests: globalThis.requests.slice(from) };
}

async function pushSource(createFields) {
  const named = (name) => `check_44 ${name}, createFields ${createFields ? 'on' : 'off'}`;
  const source = new PushSource(key, tenant, options);
  const how = { createFields };
  let id;

  await check(named('1 create a push source'), async () => {
    const made = await source.create(`push ${createFields}`, SourceVisibility.SECURED);
    id = made.id;
    assert.match(id, /\S/);
    assert.ok((await native('/sources')).items.some((found) => found.id === id));
  });

  await check(named('2 addOrUpdateDocument'), async () => {
    const document = new DocumentBuilder('https://my.doc/one?a=b&c=d#é', 'One')
      .withData('the first document')
      .withFileExtension('.txt')
      .withAuthor('Alice')
      .withDate('2026-01-02T03:04:05Z')
      .withMetadata({ [`colour_${createFields}`]: 'red', [`tags_${createFields}`]: ['a', 'b'] })
      .withPermissionSet(
        new PermissionSetBuilder(false).withAllowedPermissions(new UserSecurityIdentityBuilder('a@example.com')),
      );
    const { result, requests } = await during(() => source.addOrUpdateDocument(id, document, how));
    assert.equal(result.status, 202);
    assert.match((await result.json()).requestId, /^[0-9a-f-]{36}$/);
    // Evaluate, list, evaluate three times, create, PUT; or the PUT alone.
    assert.equal(requests.length, createFields ? 7 : 1, JSON.stringify(requests));
    await settled(id);
    const found = await item(id, 'https://my.doc/one?a=b&c=d#é');
    assert.equal(found.metadata.title, 'One');
    assert.equal(found.metadata[`colour_${createFields}`], 'red');
    assert.ok(JSON.stringify(found.permissions).includes('a@example.com'));
    assert.equal(await content(id, 'https://my.doc/one?a=b&c=d#é'), 'the first document');
  });

  await check(named('2b addOrUpdateDocument with compressed content'), async () => {
    const packed = zlib.deflateSync(Buffer.from('packed words')).toString('base64');
    const document = new DocumentBuilder('https://my.doc/packed', 'Packed').withCompressedBinaryData(packed, 'ZLIB');
    assert.equal((await source.addOrUpdateDocument(id, document, how)).status, 202);
    await settled(id);
    assert.equal(await content(id, 'https://my.doc/packed'), 'packed words');
  });

  await check(named('3 batchUpdateDocuments'), async () => {
    const batch = {
      addOrUpdate: [
        new DocumentBuilder('https://my.doc/two', 'Two').withData('zwei 日本'),
        new DocumentBuilder('https://my.doc/three', 'Three').withData('three'),
        new DocumentBuilder('https://my.doc/three/child', 'Child').withParentID('https://my.doc/three'),
      ],
      delete: [{ documentId: 'https://my.doc/packed', deleteChildren: false }],
    };
    assert.equal((await source.batchUpdateDocuments(id, batch, how)).status, 202);
    await settled(id);
    const found = await ids(id);
    assert.equal(found.length, 4, found.join(' '));
    assert.ok(!found.includes('https://my.doc/packed'));
    assert.equal(await content(id, 'https://my.doc/two'), 'zwei 日本');
  });

  await check(named('4 batchUpdateDocumentsFromFiles'), async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'landfall-client-'));
    try {
      for (const n of [1, 2]) {
        const documents = [{ documentId: `https://file.doc/${n}`, documenttype: 'txt', title: `File ${n}`, data: `file ${n}` }];
        writeFileSync(path.join(folder, `${n}.json`), JSON.stringify(documents));
      }
      const errors = [];
      await source
        .batchUpdateDocumentsFromFiles(id, [folder], how)
        .onBatchError((error) => errors.push(error))
        .batch();
      assert.deepEqual(errors, []);
    } finally {
      rmSync(folder, { recursive: true });
    }
    await settled(id);
    const found = await ids(id);
    assert.ok(found.includes('https://file.doc/1') && found.includes('https://file.doc/2'), found.join(' '));
  });

  await check(named('5 deleteDocument'), async () => {
    assert.equal((await source.deleteDocument(id, 'https://file.doc/1')).status, 202);
    assert.equal((await source.deleteDocument(id, 'https://my.doc/three', true)).status, 202);
    await settled(id);
    const found = await ids(id);
    assert.ok(!found.includes('https://file.doc/1') && !found.includes('https://my.doc/three/child'), found.join(' '));
    assert.equal(found.length, 3);
  });

  await check(named('6 setSourceStatus'), async () => {
    await source.setSourceStatus(id, 'REBUILD');
    await source.setSourceStatus(id, 'IDLE');
  });

  await check(named('7 deleteDocumentsOlderThan'), async () => {
    const answer = await source.deleteDocumentsOlderThan(id, new Date(0));
    assert.equal(answer.status, 202);
    assert.ok((await ids(id)).length === 3, 'nothing is older than 1970');
  });

  if (!createFields) return;
  await check('check_44 fields were created', async () => {
    const url = `https://platform.cloud.coveo.com/rest/organizations/${tenant}/indexes/page/fields?page=0&perPage=1000`;
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${key}` } });
    const names = (await answer.json()).items.map((field) => field.name);
    assert.ok(names.includes('colour_true') && names.includes('tags_true'), names.join(' '));
  });
}

async function identities() {
  const source = new PushSource(key, tenant, options);
  const provider = 'My Provider';
  await check('check_44 a security provider', async () => {
    const url = `https://platform.cloud.coveo.com/rest/organizations/${tenant}/securityproviders/My%20Provider`;
    const body = JSON.stringify({ name: provider, type: 'EXPANDED', nodeRequired: false, referencedBy: [], cascadingSecurityProviders: {} });
    const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' };
    assert.equal((await fetch(url, { method: 'PUT', headers, body })).status, 200);
  });
  const identity = { name: 'asmith', type: 'USER', additionalInfo: {} };
  await check('check_44 8 createSecurityIdentity', async () => {
    await source.identity.createSecurityIdentity(provider, { identity, members: [], wellKnowns: [] });
  });
  await check('check_44 9 createOrUpdateSecurityIdentityAlias', async () => {
    const mappings = [{ name: 'a@example.com', type: 'USER', provider: 'Email' }];
    await source.identity.createOrUpdateSecurityIdentityAlias(provider, { identity, mappings, wellKnowns: [] });
  });
  await check('check_44 10 deleteSecurityIdentity', async () => {
    await source.identity.deleteSecurityIdentity(provider, { identity });
  });
  await check('check_44 11 manageSecurityIdentities', async () => {
    const url = `https://api.cloud.coveo.com/push/v1/organizations/${tenant}/files`;
    const made = await fetch(url, { method: 'POST', headers: { Authorization: `Bearer ${key}` } });
    const container = await made.json();
    const body = JSON.stringify({ members: [{ identity, members: [], wellKnowns: [] }], mappings: [], deleted: [] });
    const put = await fetch(container.uploadUri, { method: 'PUT', headers: container.requiredHeaders, body });
    assert.equal(put.status, 200);
    await source.identity.manageSecurityIdentities(provider, { fileId: container.fileId, orderingId: Date.now() });
  });
  await check('check_44 12 deleteOldSecurityIdentities', async () => {
    await source.identity.deleteOldSecurityIdentities(provider, { orderingId: 1, queueDelay: 0 });
  });
}

async function catalogSource(createFields) {
  const named = (name) => `check_44 ${name}, createFields ${createFields ? 'on' : 'off'}`;
  const source = new CatalogSource(key, tenant, options);
  const how = { createFields };
  let id;
  const batch = (...names) => ({
    addOrUpdate: names.map((name) => new DocumentBuilder(`product://${name}`, name).withMetadataValue('price', 3)),
    delete: [],
  });
  await check(named('13 create a catalog source'), async () => {
    id = (await source.create(`catalog ${createFields}`, SourceVisibility.SHARED)).id;
    assert.match(id, /\S/);
  });
  await check(named('14 batchStreamDocuments'), async () => {
    await source.batchStreamDocuments(id, batch('one', 'two'), how);
    await settled(id);
    assert.deepEqual(await ids(id), ['product://one', 'product://two']);
  });
  await check(named('15 batchUpdateDocuments'), async () => {
    assert.equal((await source.batchUpdateDocuments(id, batch('two', 'three'), how)).status, 202);
    await settled(id);
    assert.deepEqual(await ids(id), ['product://one', 'product://three', 'product://two']);
  });
  await check(named('16 batchStreamDocumentsFromFiles'), async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'landfall-client-'));
    try {
      const documents = [{ documentId: 'product://four', documenttype: 'txt', title: 'four', data: 'four' }];
      writeFileSync(path.join(folder, 'a.json'), JSON.stringify(documents));
      await source.batchStreamDocumentsFromFiles(id, [folder], how).batch();
    } finally {
      rmSync(folder, { recursive: true });
    }
    await settled(id);
    assert.deepEqual(await ids(id), ['product://four'], 'a load replaces everything');
  });
}

async function errors() {
  await check('check_42 an error of the server reaches the caller as it is', async () => {
    const source = new PushSource(key, tenant, options);
    const document = new DocumentBuilder('https://my.doc/x', 'X');
    const failure = await source.addOrUpdateDocument('nowhere', document, { createFields: false }).then(
      () => assert.fail('it was accepted'),
      (error) => error,
    );
    assert.match(String(failure.message), /SOURCE_DOES_NOT_EXIST/);
    const stranger = new PushSource('lfnobody00-0000-0000-0000-000000000000', tenant, options);
    const refused = await stranger.addOrUpdateDocument('nowhere', document, { createFields: false }).catch((e) => e);
    assert.match(String(refused.message), /INVALID_TOKEN/);
    const unprivileged = await stranger.create('x', SourceVisibility.SECURED).catch((e) => e);
    assert.match(String(unprivileged.title ?? unprivileged.message), /INVALID_TOKEN/);
  });
}

(async () => {
  for (const createFields of [true, false]) await pushSource(createFields);
  await identities();
  for (const createFields of [true, false]) await catalogSource(createFields);
  await errors();
})();
