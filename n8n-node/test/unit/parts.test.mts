/** The body of an upload, the credential, the other operations. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { INodeExecutionData } from 'n8n-workflow';

import {
	LipsyncApi,
	proxyHeaders,
	serverAddress,
} from '../../credentials/LipsyncApi.credentials.js';
import { PICTURE, RECORDING } from '../../nodes/Lipsync/api/inputs.js';
import { encode, filePart } from '../../nodes/Lipsync/api/multipart.js';
import { execute, makeContext } from './context.mjs';
import { job, json, link, problem, serve, working } from './scripted.mjs';

describe('the body of an upload', () => {
	const big = Buffer.alloc(1_500_000, 'x');
	const store = new Map([['file-1', { bytes: big }]]);
	const items: INodeExecutionData[] = [
		{
			json: {},
			binary: {
				image: {
					id: 'file-1',
					data: 'filesystem-v2',
					mimeType: 'image/png',
					fileName: 'Jürgen "J".png',
				},
				audio: {
					data: Buffer.from('tone').toString('base64'),
					mimeType: 'audio/wav',
					fileExtension: 'wav',
				},
			},
		},
	];

	it('is a stream of exactly the announced length when n8n stores the file', async () => {
		const context = makeContext({ items, store });
		const files = [
			await filePart(context, 0, 'image', PICTURE),
			await filePart(context, 0, 'audio', RECORDING),
		];
		const { content, headers } = await encode(context, { texts: { prompt: 'Grüße' }, files });
		assert.ok('pipe' in content);
		const chunks: Buffer[] = [];
		for await (const chunk of content) chunks.push(chunk as Buffer);
		const body = Buffer.concat(chunks);
		assert.equal(body.length, headers['Content-Length']);
		assert.ok(body.includes(big));
		assert.ok(
			body.includes(`filename="J_rgen _J_.png"; filename*=UTF-8''J%C3%BCrgen%20%22J%22.png`),
		);
		assert.ok(body.includes('filename="audio.wav"'));
		assert.ok(body.includes('Grüße'));
	});

	it('can be made again for another try', async () => {
		const context = makeContext({ items, store });
		const form = { texts: {}, files: [await filePart(context, 0, 'image', PICTURE)] };
		const first = await encode(context, form);
		assert.ok('destroy' in first.content);
		first.content.destroy();
		const { content, headers } = await encode(context, form);
		let nBytes = 0;
		for await (const chunk of content as AsyncIterable<Buffer>) nBytes += chunk.length;
		assert.equal(nBytes, headers['Content-Length']);
	});
});

describe('the credential', () => {
	it('accepts addresses with slashes, prefixes and spaces around them', () => {
		assert.equal(serverAddress(' https://gpu.example.com/ '), 'https://gpu.example.com');
		assert.equal(
			serverAddress('https://hub/user/me/proxy/5000//'),
			'https://hub/user/me/proxy/5000',
		);
	});

	it('names the fault of an invalid address', () => {
		for (const wrong of ['', 'gpu.example.com:5000', 'ftp://x', 'https://x/?a=1', 'https://']) {
			assert.throws(() => serverAddress(wrong), /http:\/\/ or https:\/\//, wrong);
		}
	});

	it('adds token and proxy headers to every request', async () => {
		const options = await new LipsyncApi().authenticate(
			{
				baseUrl: 'https://x/p/',
				token: ' t ',
				ignoreSslIssues: true,
				proxyHeadersSecret: '{"CF-Id": "1"}',
			},
			{ url: '/v1/me', headers: { Accept: 'a' } },
		);
		assert.deepEqual(options.headers, { Accept: 'a', 'CF-Id': '1', Authorization: 'Bearer t' });
		assert.equal(options.baseURL, 'https://x/p');
		assert.equal(options.skipSslCertificateValidation, true);
		assert.throws(() => proxyHeaders('["a"]'), /JSON object/);
	});
});

describe('Get Status, Download and Cancel', () => {
	it('refuse an invalid job ID before a request is sent', async () => {
		for (const jobId of ['', '../me', undefined]) {
			const parameters = { operation: 'getStatus', jobId };
			await assert.rejects(
				execute(makeContext({ parameters, baseUrl: 'http://127.0.0.1:1' })),
				/no job ID/,
			);
		}
	});

	it('download finished videos only', async (t) => {
		const server = await serve(t, (_asked, response) => json(response, 200, job('j', 'running')));
		const parameters = { operation: 'download', jobId: 'j' };
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url, parameters })),
			/still running/,
		);
	});

	it('never deletes the video of a job that has ended when it is cancelled', async (t) => {
		const server = await serve(t, (_asked, response) => json(response, 200, job('j', 'succeeded')));
		const parameters = { operation: 'cancel', jobId: 'j' };
		const [item] = await execute(makeContext({ baseUrl: server.url, parameters }));
		assert.deepEqual(item.json, { job_id: 'j', cancelled: false, state: 'succeeded' });
		assert.equal(server.to('DELETE', /./).length, 0);
	});

	it('Get Link sends the wanted time and returns the public address if the server knows it', async (t) => {
		const url = 'https://example.com/p/v1/jobs/j/shared?expires=9&signature=s';
		const server = await serve(t, (_asked, response) =>
			json(response, 200, { ...link('j'), url, is_public: true }),
		);
		const parameters = { operation: 'getLink', jobId: 'j', expiresAfterHours: 2, collects: true };
		const [item] = await execute(makeContext({ baseUrl: server.url, parameters }));
		assert.equal(server.asked[0].path, '/v1/jobs/j/link?expires_in_s=7200&collects=true');
		assert.deepEqual(item.json, {
			job_id: 'j',
			link: url,
			link_expires_at: '2026-12-01T00:00:00Z',
		});
	});

	it('Get Link refuses a time beyond seven days, and explains a server without links', async (t) => {
		const server = await serve(t, (_asked, response) => problem(response, 404, 'not_found', 'No.'));
		const parameters = { operation: 'getLink', jobId: 'j' };
		await assert.rejects(
			execute(
				makeContext({ baseUrl: server.url, parameters: { ...parameters, expiresAfterHours: 169 } }),
			),
			/Expires After is 169; it has to be a number from 0\.01 to 168/,
		);
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url, parameters })),
			/gives no link to job j/,
		);
	});

	it('cancels a job that runs', async (t) => {
		const server = await serve(t, working());
		const parameters = { operation: 'cancel', jobId: 'j' };
		const [item] = await execute(makeContext({ baseUrl: server.url, parameters }));
		assert.equal(item.json.cancelled, true);
		assert.equal(server.to('DELETE', /^\/v1\/jobs\/j$/).length, 1);
	});
});

describe('Wait Until Ready', () => {
	const parameters = {
		resource: 'server',
		operation: 'waitUntilReady',
		timeoutMinutes: 1,
		engine: 'auto',
	};
	const ready = {
		ready: true,
		stage: 'ready',
		fraction: 1,
		detail: 'ok',
		bytes_done: null,
		bytes_total: null,
		seconds_left: null,
	};

	it('waits behind a tunnel without a server and through downloads, and shows the progress', async (t) => {
		const answers = [
			(r: Parameters<typeof json>[0]) => r.writeHead(530).end('<html>'),
			(r: Parameters<typeof json>[0]) =>
				json(r, 503, {
					...ready,
					ready: false,
					stage: 'downloading',
					fraction: 0.5,
					bytes_done: 5e9,
					bytes_total: 1e10,
					seconds_left: 60,
					detail: '',
				}),
		];
		const server = await serve(t, (asked, response) => {
			if (asked.path === '/v1/me')
				json(response, 200, { name: 'n', version: '1', engine: 'preview' });
			else (answers.shift() ?? ((r) => json(r, 200, ready)))(response);
		});
		const context = makeContext({ baseUrl: server.url, parameters });
		const [item] = await execute(context);
		assert.equal(item.json.ready, true);
		assert.equal(item.json.engine, 'preview');
		assert.ok(
			context.lines.some((line) => line.includes('5.0 of 10.0 GB')),
			context.lines.join('\n'),
		);
	});

	it('ends at once when the server reports that it cannot become ready', async (t) => {
		const server = await serve(t, (_asked, response) =>
			json(response, 503, {
				...ready,
				ready: false,
				stage: 'failed',
				detail: 'The weights are damaged.',
			}),
		);
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url, parameters })),
			(error: Error) => {
				assert.match(
					String((error as Error & { description: string }).description),
					/weights are damaged/,
				);
				return true;
			},
		);
	});

	it('shows a wrong token as soon as the server is up', async (t) => {
		const server = await serve(t, (asked, response) =>
			asked.path === '/readyz'
				? json(response, 200, ready)
				: problem(response, 401, 'unauthorized', 'Wrong token.'),
		);
		await assert.rejects(execute(makeContext({ baseUrl: server.url, parameters })), /Wrong token/);
	});
});
