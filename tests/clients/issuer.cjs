// A published OpenID Connect provider, unmodified, on a loopback port, and how a tenant comes to trust it.
'use strict';

const { execFileSync } = require('node:child_process');
const { generateKeyPairSync } = require('node:crypto');
const { createServer } = require('node:http');
const { pathToFileURL } = require('node:url');
const { assert } = require('./checks.cjs');

const tenant = process.env.LANDFALL_TENANT;
const client = { client_id: 'uploader', client_secret: 'a-secret-of-the-test-alone' };
/** One that sends its secret in the body, as Cognite's clients do. */
const bodyClient = { ...client, client_id: 'sdk', token_endpoint_auth_method: 'client_secret_post' };
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
  static async start() {
    // The package is a module, which NODE_PATH does not lead to.
    const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));
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
      clients: [client, bodyClient].map((one) => ({
        ...one, grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
      })),
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

  stop() {
    this.server.close();
    this.server.closeAllConnections();
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

module.exports = { Issuer, newKey, trust, bodyClient, audience };
