// Cognite's published clients, unmodified, with client credentials from a published provider instead of a key. The arguments
// are the commands, each of one string; what they print is printed.
'use strict';

const { spawn } = require('node:child_process');
const { Issuer, audience, bodyClient, newKey, trust } = require('./issuer.cjs');

(async () => {
  // It warns about what is for development alone; its words are no checks.
  console.warn = () => {};
  console.info = () => {};
  const issuer = await Issuer.start();
  // Short lives, so that a client fetches a token again while it works.
  issuer.become([newKey('one', 'RS256')], { life: 40 });
  trust(issuer, '--rights', 'all');
  const credentials = {
    LANDFALL_TOKEN_URL: `${issuer.url}/token`,
    LANDFALL_CLIENT_ID: bodyClient.client_id,
    LANDFALL_CLIENT_SECRET: bodyClient.client_secret,
    LANDFALL_AUDIENCE: audience,
  };
  // No key: nothing but a token lets them in.
  const { LANDFALL_KEY, ...environment } = process.env;
  for (const command of process.argv.slice(2)) {
    const [program, ...given] = command.split(' ');
    const child = spawn(program, given, { stdio: 'inherit', env: { ...environment, ...credentials } });
    const status = await new Promise((resolve) => child.on('exit', resolve));
    if (status !== 0) process.exitCode = 1;
  }
  issuer.stop();
})();
