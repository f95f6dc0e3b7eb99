/** The cases of addresses that come from data: the token of the credential goes to the server of the credential only. */
import assert from 'node:assert/strict';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';

import { output, type Execution } from './execution.mjs';
import { TOKEN } from './lipsync.mjs';
import type { Stage } from './stage.mjs';
import { items, line, lipsync2, read, start } from './workflows.mjs';

export function strangerCases(stage: () => Stage): void {
	describe('an address that is not that of the credential', () => {
		const asked: IncomingHttpHeaders[] = [];
		let stranger: Server;
		let redirects: Server;
		let strangerUrl: string;
		let redirectsUrl: string;

		before(async () => {
			stranger = createServer((request, response) => {
				asked.push(request.headers);
				request.resume();
				response.writeHead(404, { 'Content-Type': 'application/json' }).end('{}');
			});
			strangerUrl = await listen(stranger);
			redirects = createServer((request, response) => {
				request.resume();
				response.writeHead(302, { Location: `${strangerUrl}${request.url ?? ''}` }).end();
			});
			redirectsUrl = await listen(redirects);
		});

		after(() => {
			for (const server of [stranger, redirects]) {
				server?.closeAllConnections();
				server?.close();
			}
		});

		it('gets the token of its own item, and never that of the credential', async () => {
			const { n8n } = stage();
			const picture = stage().file('one/portrait.jpg');
			const recording = stage().file('one/speech.wav');
			const runs: Execution[] = [];
			for (const operation of [
				{ resource: 'server', operation: 'getInfo' },
				{ operation: 'getStatus', jobId: { __rl: true, mode: 'id', value: '0123' } },
				{
					imageField: "={{ $('Picture').first().binary.data }}",
					audioField: "={{ $('Recording').first().binary.data }}",
				},
			]) {
				const flow = line(
					'stranger',
					start,
					read('Picture', picture, 'data'),
					read('Recording', recording, 'data'),
					items({ url: strangerUrl, token: 'own' }, { url: strangerUrl }),
					lipsync2({ ...operation, server: 'input' }, { onError: 'continueRegularOutput' }),
				);
				runs.push(await n8n.tryOut(flow));
			}
			const said = runs.map((run) => run.data.resultData.error ?? output(run, 'Lipsync'));
			assert.ok(asked.length >= 6, `asked ${asked.length} times: ${JSON.stringify(said)}`);
			assert.ok(asked.some(({ authorization }) => authorization === 'Bearer own'));
			assert.ok(asked.some(({ authorization }) => authorization === undefined));
			assert.ok(!JSON.stringify(asked).includes(TOKEN));
		});

		it('is not followed to when the server of the credential redirects there', async () => {
			const { n8n } = stage();
			asked.length = 0;
			const lipsyncApi = await n8n.saveCredential('redirects', 'lipsyncApi', {
				baseUrl: redirectsUrl,
				token: TOKEN,
			});
			const node = lipsync2(
				{ resource: 'server', operation: 'getInfo' },
				{ credentials: { lipsyncApi }, onError: 'continueRegularOutput' },
			);
			const run = await n8n.tryOut(line('redirects', start, node));
			assert.match(String(output(run, 'Lipsync')[0].json.error), /sends the node on to/);
			assert.equal(asked.length, 0, 'the redirect was followed');
		});
	});
}

async function listen(server: Server): Promise<string> {
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
