/** Video > Generate when something fails: retries, a full queue, cancellation, a timeout, a broken download. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

// The package's ES modules do not resolve in Node.js; n8n itself requires it.
import workflow = require('n8n-workflow');

import { execute, makeContext, withFiles } from './context.mjs';
import { job, json, problem, serve, working, type Asked } from './scripted.mjs';

type Response = import('node:http').ServerResponse;

const keyOf = (asked: Asked) => asked.headers['idempotency-key'];

describe('Generate when something fails', () => {
	it('sends the same key again after a cut connection', async (t) => {
		let cut = true;
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.method !== 'POST' || !cut) return false;
				cut = false;
				response.destroy();
				return true;
			}),
		);
		await execute(makeContext({ baseUrl: server.url }));
		const posts = server.to('POST', /^\/v1\/jobs$/);
		assert.equal(posts.length, 2);
		assert.equal(keyOf(posts[0]), keyOf(posts[1]));
	});

	it('uses a new key only when the job of the old one failed', async (t) => {
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.path !== '/v1/jobs' || String(keyOf(asked)).endsWith('-2')) return false;
				json(response, 202, job('old', 'failed'), { 'Idempotency-Replayed': 'true' });
				return true;
			}),
		);
		const [item] = await execute(makeContext({ baseUrl: server.url }));
		const [first, second] = server.to('POST', /^\/v1\/jobs$/).map(keyOf);
		assert.equal(second, `${first}-2`);
		assert.equal(item.json.state, 'succeeded');
	});

	it('makes different keys for items, runs and executions', async (t) => {
		const server = await serve(t, working());
		const items = [withFiles(), withFiles()];
		await execute(makeContext({ baseUrl: server.url, items }));
		await execute(makeContext({ baseUrl: server.url, executionId: '18' }));
		await execute(makeContext({ baseUrl: server.url, runIndex: 1 }));
		await execute(makeContext({ baseUrl: server.url }));
		const keys = server.to('POST', /^\/v1\/jobs$/).map(keyOf);
		assert.equal(new Set(keys).size, 4);
		assert.equal(keys[4], keys[0]);
	});

	for (const [form, retryAfter] of [
		['seconds', () => '2'],
		['a date', () => new Date(Date.now() + 3000).toUTCString()],
	] as const) {
		it(`waits while the queue is full, for the time that the server names in ${form}`, async (t) => {
			const sentAt: number[] = [];
			const server = await serve(
				t,
				working((asked, response) => {
					if (asked.method !== 'POST' || asked.path !== '/v1/jobs') return false;
					sentAt.push(Date.now());
					if (sentAt.length > 1) return false;
					const headers = { 'Retry-After': retryAfter() };
					problem(response, 429, 'queue_full', 'The queue is full.', headers);
					return true;
				}),
			);
			const [item] = await execute(makeContext({ baseUrl: server.url }));
			assert.equal(item.json.state, 'succeeded');
			// Without the header the node would wait for one second.
			assert.ok(sentAt[1] - sentAt[0] >= 1900, `${sentAt[1] - sentAt[0]} ms`);
		});
	}

	it('fails with the sentence of the server and the remedy', async (t) => {
		const server = await serve(t, (_asked, response) =>
			problem(response, 401, 'unauthorized', 'The token is not one of this server’s.'),
		);
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url })),
			(error: workflow.NodeApiError) => {
				assert.ok(error instanceof workflow.NodeApiError);
				assert.equal(error.message, 'The token is not one of this server’s.');
				assert.match(String(error.description), /credential/);
				assert.equal(error.httpCode, '401');
				assert.equal(error.context.itemIndex, 0);
				return true;
			},
		);
	});

	it('does not mistake a login page or a dead tunnel for the server', async (t) => {
		const page = await serve(t, (_asked, response) => {
			response.writeHead(302, { Location: 'https://login.example.com/' }).end();
		});
		await assert.rejects(execute(makeContext({ baseUrl: page.url })), /login\.example\.com/);
		const other = await serve(t, (_asked, response) => void response.writeHead(404).end('<html>'));
		await assert.rejects(
			execute(makeContext({ baseUrl: other.url })),
			/does not come from a Lipsync server/,
		);
		for (const text of ['<html>', '{}', '{"id": 7}', 'null']) {
			const polite = await serve(t, (_asked, response) => {
				response.writeHead(200, { 'Content-Type': 'application/json' }).end(text);
			});
			await assert.rejects(
				execute(makeContext({ baseUrl: polite.url })),
				/does not come from a Lipsync server/,
				text,
			);
		}
	});

	it('reports the reason of a failed job and cancels the other ones', async (t) => {
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.path === '/v1/jobs/job0' && asked.method === 'GET') {
					const error = {
						code: 'no_face',
						title: 'No face',
						detail: 'No face was found in the picture.',
					};
					json(response, 200, job('job0', 'failed', { error }));
					return true;
				}
				return false;
			}),
		);
		const items = [withFiles(), withFiles()];
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url, items })),
			(error: workflow.NodeOperationError) => {
				assert.equal(error.message, 'No face was found in the picture.');
				assert.match(String(error.description), /clearly visible face.*job0/);
				return true;
			},
		);
		assert.deepEqual(
			server.to('DELETE', /./).map(({ path }) => path),
			['/v1/jobs/job1'],
		);
	});

	it('puts the error into the item of the failed job with Continue On Fail', async (t) => {
		const server = await serve(t, working());
		const onlyPicture = withFiles();
		delete onlyPicture.binary?.audio;
		const items = [onlyPicture, withFiles()];
		const output = await execute(
			makeContext({ baseUrl: server.url, items, onError: 'continueRegularOutput' }),
		);
		assert.match(String(output[0].json.error), /no recording. It has: image/);
		assert.equal(output[0].binary, undefined, 'the picture must not stand for the video');
		assert.deepEqual(Object.keys(output[0].json), ['error', 'message']);
		assert.equal(output[1].json.state, 'succeeded');
	});

	it('keeps the order and the pairs of fifty items of which every seventh fails', async (t) => {
		const server = await serve(
			t,
			working((asked, response) => {
				const id = /^\/v1\/jobs\/(\w+)$/.exec(asked.path)?.[1];
				if (asked.method !== 'GET' || id === undefined) return false;
				json(response, 200, job(id, 'succeeded'));
				return true;
			}),
		);
		const isBad = (i: number) => i % 7 === 3;
		const items = Array.from({ length: 50 }, (_, i) =>
			isBad(i) ? { json: {} } : withFiles(`${i}`),
		);
		const output = await execute(
			makeContext({ baseUrl: server.url, items, onError: 'continueErrorOutput' }),
		);
		assert.equal(output.length, 50);
		for (const [i, item] of output.entries()) {
			assert.deepEqual(item.pairedItem, { item: i });
			assert.equal('error' in item.json, isBad(i));
			assert.equal(item.binary === undefined, isBad(i));
		}
	});

	it('stops waiting at the timeout and does not cancel the job', async (t) => {
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.method !== 'GET') return false;
				json(response, 200, job('job0', 'running'));
				return true;
			}),
		);
		const parameters = { options: { timeoutMinutes: 0.01 } };
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url, parameters })),
			/not finished after/,
		);
		assert.equal(server.to('DELETE', /./).length, 0);
	});

	it('cancels the job when the execution is stopped', async (t) => {
		const stop = new AbortController();
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.method !== 'GET') return false;
				json(response, 200, job('job0', 'running'));
				stop.abort();
				return true;
			}),
		);
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url, signal: stop.signal })),
			/canceled/,
		);
		assert.deepEqual(
			server.to('DELETE', /./).map(({ path }) => path),
			['/v1/jobs/job0'],
		);
	});

	for (const [how, tear] of [
		['breaks off', (response: Response) => response.write('ftyp', () => response.destroy())],
		['ends too early', (response: Response) => response.end('ftyp')],
	] as const) {
		it(`fetches the video again when the download ${how}`, async (t) => {
			let torn = true;
			const server = await serve(
				t,
				working((asked, response) => {
					if (!asked.path.endsWith('/video') || !torn) return false;
					torn = false;
					// Without a length the body of the second way is complete for HTTP.
					response.writeHead(200, how === 'breaks off' ? { 'Content-Length': '1000' } : {});
					tear(response);
					return true;
				}),
			);
			const context = makeContext({ baseUrl: server.url });
			const [item] = await execute(context);
			assert.equal(
				context.store.get(String(item.binary?.data.id))?.bytes.toString(),
				'ftyp this is the video',
			);
		});
	}

	it('keeps the video although it cannot be marked as collected', async (t) => {
		const server = await serve(
			t,
			working((asked, response) => {
				if (!asked.path.endsWith('/collected')) return false;
				problem(response, 410, 'gone', 'The video has expired.');
				return true;
			}),
		);
		const context = makeContext({ baseUrl: server.url });
		const [item] = await execute(context);
		assert.ok(item.binary?.data);
		assert.ok(context.lines.some((line) => line.includes('could not be marked')));
	});

	it('ends within its Timeout, whichever request the server does not answer', async (t) => {
		const silent: Record<string, RegExp> = { POST: /./, GET: /\/v1\/jobs\/job0$/, video: /video$/ };
		for (const [method, path] of Object.entries(silent)) {
			const server = await serve(
				t,
				working(
					(asked) => (method === 'video' || asked.method === method) && path.test(asked.path),
				),
			);
			const parameters = { options: { timeoutMinutes: 0.02 } };
			const began = Date.now();
			await assert.rejects(
				execute(makeContext({ baseUrl: server.url, parameters })),
				/within the Timeout of|not finished after/,
				method,
			);
			// The time for 1.2 seconds of Timeout and for cancelling the job, with a wide margin.
			assert.ok(Date.now() - began < 30_000, method);
		}
	});
});
