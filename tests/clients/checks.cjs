// What the scripts share: checks that print a line each, and our own API, which tells what arrived.
'use strict';

const assert = require('node:assert/strict');

const base = process.env.LANDFALL_URL;
const key = process.env.LANDFALL_KEY;

/** Runs one check; a failed one does not end the script. */
async function check(name, body) {
  try {
    await body();
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`not ok ${name}`);
    console.log(String(error?.errors ?? '') + String(error?.stack ?? error));
    process.exitCode = 1;
  }
}

async function native(path) {
  const response = await fetch(`${base}/landfall/v1${path}`, { headers: { Authorization: `Bearer ${key}` } });
  assert.equal(response.status, 200, `${path}: ${response.status}`);
  return response.json();
}

/** Waits until every push of a source or provider is done; the pushes. */
async function settled(source) {
  for (let tries = 0; tries < 600; tries += 1) {
    const pushes = (await native(`/sources/${source}/pushes?limit=1000`)).items;
    if (pushes.every((push) => push.state === 'done')) return pushes;
    const broken = pushes.find((push) => push.state === 'failed');
    assert.ok(!broken, JSON.stringify(broken));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`the pushes of ${source} do not end`);
}

async function ids(source) {
  const items = (await native(`/sources/${source}/items?limit=1000`)).items;
  return items.map((item) => item.document_id).sort();
}

async function item(source, documentId) {
  return native(`/sources/${source}/item?document_id=${encodeURIComponent(documentId)}`);
}

async function content(source, documentId) {
  const path = `/sources/${source}/item/content?document_id=${encodeURIComponent(documentId)}&decoded=true`;
  const response = await fetch(`${base}/landfall/v1${path}`, { headers: { Authorization: `Bearer ${key}` } });
  assert.equal(response.status, 200);
  return response.text();
}

module.exports = { assert, check, native, settled, ids, item, content };
