// The published client knows only its vendor's hosts. This is loaded before it and sends what is meant for them to
// the server under test; nothing else about a request is touched. Requests to any other host fail, but for a store that
// clients send to themselves.
'use strict';

const server = new URL(process.env.LANDFALL_URL);
const vendor = new Set(['api.cloud.coveo.com', 'platform.cloud.coveo.com']);
const original = globalThis.fetch;

// Every request as it was sent, for the checks: method, host it was meant for, path.
globalThis.requests = [];

globalThis.fetch = async function fetch(input, init) {
  const url = new URL(typeof input === 'string' || input instanceof URL ? input : input.url);
  const method = (init?.method ?? input.method ?? 'GET').toUpperCase();
  const host = url.host;
  if (vendor.has(url.hostname)) {
    url.protocol = server.protocol;
    url.host = server.host;
  } else if (url.host !== server.host && url.host !== process.env.LANDFALL_STORE) {
    throw new Error(`a request to ${url.host}`);
  }
  const response = await original(input instanceof Request ? new Request(url, input) : url, init);
  globalThis.requests.push({ method, host, path: url.pathname, search: url.search, status: response.status });
  return response;
};
