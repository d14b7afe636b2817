// The same client against a server that allows few requests a second: it waits, repeats and succeeds.
'use strict';

const { DocumentBuilder, PushSource, SourceVisibility } = require('@coveo/push-api-client');
const { assert, check } = require('./checks.cjs');

const key = process.env.LANDFALL_KEY;
const tenant = process.env.LANDFALL_TENANT;

(async () => {
  const source = new PushSource(key, tenant, { retryAfter: 300, maxRetries: 10 });
  await check('check_41 429, then success', async () => {
    const { id } = await source.create('throttled', SourceVisibility.SECURED);
    const pushes = [];
    for (let n = 0; n < 12; n += 1) {
      const document = new DocumentBuilder(`https://my.doc/${n}`, `Number ${n}`);
      pushes.push(source.addOrUpdateDocument(id, document, { createFields: false }));
    }
    for (const answer of await Promise.all(pushes)) assert.equal(answer.status, 202);
    const seen = (status) => globalThis.requests.filter((request) => request.status === status).length;
    assert.ok(seen(429) > 0, 'the limit was reached');
    assert.equal(seen(202), 12, 'every document was accepted once');
  });
})();
