/** Video > Generate over real HTTP: the requests and the output items. generateFails.test.mts has the failures. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { NodeOperationError } from 'n8n-workflow';

import { Lipsync } from '../../nodes/Lipsync/Lipsync.node.js';
import { execute, makeContext, withFiles } from './context.mjs';
import { checkedJob, job, json, problem, serve, working } from './scripted.mjs';

describe('Generate', () => {
	it('sends the inputs and returns the stored video with its real name', async (t) => {
		const server = await serve(t, working());
		const context = makeContext({
			baseUrl: server.url,
			parameters: { scene: { prompt: 'Hello' }, options: { seed: '7' } },
		});
		const [item] = await execute(context);
		const [post] = server.to('POST', /^\/v1\/jobs$/);
		const body = post.body.toString();
		assert.equal(post.headers.authorization, 'Bearer secret');
		assert.match(
			body,
			/name="image"; filename="anna.png"\r\nContent-Type: image\/png\r\n\r\na picture\r\n/,
		);
		assert.match(body, /name="prompt"\r\n\r\nHello\r\n/);
		assert.match(body, /name="seed"\r\n\r\n7\r\n/);
		assert.doesNotMatch(body, /name="(preset|resolution|face_index|callback_url)"/);
		assert.equal(item.binary?.data.fileName, 'anna-lipsync.mp4');
		assert.equal(item.binary?.data.mimeType, 'video/mp4');
		assert.equal(item.json.job_id, 'job0');
		assert.deepEqual(item.pairedItem, { item: 0 });
		assert.equal(server.to('POST', /\/collected$/).length, 1);
	});

	it('sends the spoken words for captions, and returns the SRT file beside the video', async (t) => {
		const links = { video: 'x', stored: null, captions_srt: 'x', captions_vtt: 'x' };
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.path === '/v1/jobs/job0/captions.srt') response.end('1\n00:00 Olá');
				else if (asked.path === '/v1/jobs/job0')
					json(response, 200, job('job0', 'succeeded', { links }));
				else return false;
				return true;
			}),
		);
		const captions = { script: ' Olá! ', show: 'words', language: 'pt-BR', srtField: 'captions' };
		const context = makeContext({ baseUrl: server.url, parameters: { captions } });
		const [item] = await execute(context);
		const body = server.to('POST', /^\/v1\/jobs$/)[0].body.toString();
		for (const [name, value] of Object.entries({
			script: 'Olá!',
			captions: 'burned',
			caption_style: 'words',
			language: 'pt-BR',
		})) {
			assert.ok(body.includes(`name="${name}"\r\n\r\n${value}\r\n`), name);
		}
		assert.equal(item.binary?.captions.fileName, 'anna-lipsync.srt');
		assert.equal(
			context.store.get(String(item.binary?.captions.id))?.bytes.toString(),
			'1\n00:00 Olá',
		);
		assert.equal(item.json.captions_vtt_url, `${server.url}/v1/jobs/job0/captions.vtt`);
	});

	it('sends no field of captions when the panel has none', async (t) => {
		const server = await serve(t, working());
		await execute(makeContext({ baseUrl: server.url }));
		const [post] = server.to('POST', /^\/v1\/jobs$/);
		assert.doesNotMatch(post.body.toString(), /name="(script|captions|caption_style|language)"/);
	});

	it('sends the shape of the video, and returns the first frame beside it', async (t) => {
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.path !== '/v1/jobs/job0/poster.jpg') return false;
				response.writeHead(200, { 'Content-Type': 'image/jpeg' });
				response.end('a picture');
				return true;
			}),
		);
		const format = {
			shape: '9:16',
			height: 1280,
			loudness: -14,
			leadSilence: 0,
			posterField: 'poster',
		};
		const context = makeContext({ baseUrl: server.url, parameters: { format } });
		const [item] = await execute(context);
		const body = server.to('POST', /^\/v1\/jobs$/)[0].body.toString();
		for (const [name, value] of Object.entries({
			format: '9:16',
			height: '1280',
			loudness_lufs: '-14',
			lead_silence_s: '0',
		})) {
			assert.ok(body.includes(`name="${name}"\r\n\r\n${value}\r\n`), name);
		}
		assert.doesNotMatch(body, /name="fill"/);
		assert.equal(item.binary?.poster.fileName, 'anna-lipsync.jpg');
		assert.equal(context.store.get(String(item.binary?.poster.id))?.bytes.toString(), 'a picture');
	});

	it('sends a video below the bar to the second output, with its contact sheet', async (t) => {
		const scores = [0.9, 0.2, null];
		const links = { video: 'x', stored: null, sheet: 'x' };
		const server = await serve(
			t,
			working((asked, response) => {
				const [, number, part] = /^\/v1\/jobs\/job(\d)(\/sheet)?$/.exec(asked.path) ?? [];
				if (number === undefined) return false;
				if (part) response.end('a sheet');
				else json(response, 200, checkedJob(`job${number}`, scores[Number(number)], links));
				return true;
			}),
		);
		const context = makeContext({
			baseUrl: server.url,
			items: [withFiles(), withFiles(), withFiles()],
			parameters: { check: { bar: 0.6, sheetField: 'sheet', retriesBelow: 0.5, retries: 2 } },
		});
		const [good, below] = await new Lipsync().execute.call(context);
		assert.deepEqual(
			good.map(({ json: { job_id } }) => job_id),
			['job0', 'job2'],
		);
		assert.deepEqual(
			below.map(({ json: { job_id } }) => job_id),
			['job1'],
		);
		const quality = below[0].json.quality as { score: number; findings: Array<{ name: string }> };
		assert.equal(quality.score, 0.2);
		assert.equal(quality.findings[0].name, 'lag');
		assert.equal(below[0].binary?.sheet.fileName, 'anna-lipsync.sheet.jpg');
		assert.equal(below[0].binary?.data.fileName, 'anna-lipsync.mp4');
		const body = server.to('POST', /^\/v1\/jobs$/)[0].body.toString();
		for (const [name, value] of Object.entries({
			check: 'true',
			retries_below: '0.5',
			retries: '2',
		})) {
			assert.ok(body.includes(`name="${name}"\r\n\r\n${value}\r\n`), name);
		}
	});

	it('sends the visible label with its corner', async (t) => {
		const server = await serve(t, working());
		const marking = { label: ' AI generated ', corner: 'bottom-right' };
		await execute(makeContext({ baseUrl: server.url, parameters: { marking } }));
		const body = server.to('POST', /^\/v1\/jobs$/)[0].body.toString();
		assert.match(body, /name="label"\r\n\r\nAI generated\r\n/);
		assert.match(body, /name="label_corner"\r\n\r\nbottom-right\r\n/);
	});

	it('has one output and sends no field of the check when the panel has no bar', async (t) => {
		for (const typeVersion of [1, 2]) {
			const server = await serve(t, working());
			const context = makeContext({ baseUrl: server.url, typeVersion });
			assert.equal((await new Lipsync().execute.call(context)).length, 1);
			const [post] = server.to('POST', /^\/v1\/jobs$/);
			assert.doesNotMatch(post.body.toString(), /name="(check|retries_below|retries)"/);
		}
	});

	it('submits all items before it waits for the first and keeps their order', async (t) => {
		const server = await serve(t, working());
		const context = makeContext({
			baseUrl: server.url,
			items: [withFiles('one'), withFiles('two')],
		});
		const output = await execute(context);
		const firstLook = server.asked.findIndex(({ method }) => method === 'GET');
		assert.deepEqual(
			server.asked.slice(0, firstLook).map(({ path }) => path),
			['/v1/jobs', '/v1/jobs'],
		);
		assert.deepEqual(
			output.map(({ json: { job_id } }) => job_id),
			['job0', 'job1'],
		);
		assert.deepEqual(
			output.map(({ pairedItem }) => pairedItem),
			[{ item: 0 }, { item: 1 }],
		);
	});

	it('returns the link and no binary to a tool, from URLs', async (t) => {
		const server = await serve(t, working());
		const parameters = {
			imageInput: 'url',
			imageUrl: 'https://example.com/a.png',
			audioInput: 'url',
			audioUrl: 'https://example.com/a.mp3',
		};
		const [item] = await execute(
			makeContext({ baseUrl: server.url, tool: true, parameters, items: [{ json: {} }] }),
		);
		assert.equal(item.binary, undefined);
		assert.equal(item.json.video_url, `${server.url}/v1/jobs/job0/video`);
		assert.match(
			server.asked[0].body.toString(),
			/name="image_url"\r\n\r\nhttps:\/\/example\.com\/a\.png\r\n/,
		);
	});

	it('sends words to speak in place of a recording, and no sound file', async (t) => {
		const server = await serve(t, working());
		const parameters = {
			audioInput: 'text',
			speechText: 'Olá!',
			speechVoice: 'pf_dora',
			speechLanguage: '',
			captions: { show: 'off', language: 'pt-BR' },
		};
		await execute(makeContext({ baseUrl: server.url, parameters }));
		const body = server.asked[0].body.toString();
		assert.match(body, /name="text"\r\n\r\nOlá!\r\n/);
		assert.match(body, /name="voice"\r\n\r\npf_dora\r\n/);
		assert.match(body, /name="language"\r\n\r\npt-BR\r\n/);
		assert.match(body, /name="captions"\r\n\r\noff\r\n/);
		assert.doesNotMatch(body, /name="audio"|caption_style/);
		await assert.rejects(
			execute(makeContext({ baseUrl: server.url, parameters: { ...parameters, speechText: ' ' } })),
			/The field Text has no words to speak/,
		);
	});

	it('accepts words of an agent in place of the address of a recording', async (t) => {
		const server = await serve(t, working());
		const parameters = {
			imageInput: 'url',
			imageUrl: 'https://example.com/a.png',
			audioInput: undefined,
			speechText: 'Hello!',
		};
		await execute(
			makeContext({ baseUrl: server.url, tool: true, parameters, items: [{ json: {} }] }),
		);
		assert.match(server.asked[0].body.toString(), /name="text"\r\n\r\nHello!\r\n/);
		const nothing = { ...parameters, speechText: '' };
		await assert.rejects(
			execute(makeContext({ tool: true, parameters: nothing, items: [{ json: {} }] })),
			(error: NodeOperationError) => {
				assert.match(String(error.description), /write the words into Text/);
				return true;
			},
		);
		// The editor marks a node with an empty required field as faulty.
		const needed = new Lipsync().description.properties
			.filter(({ required, displayOptions }) => required && displayOptions?.show?.['@tool'])
			.map(({ name }) => name);
		assert.deepEqual(needed, ['imageUrl']);
	});

	it("gives the job at once with Don't Wait", async (t) => {
		const server = await serve(t, working());
		const [item] = await execute(
			makeContext({ baseUrl: server.url, parameters: { options: { wait: false } } }),
		);
		assert.equal(item.json.state, 'running');
		assert.equal(item.binary, undefined);
		assert.equal(server.to('GET', /\/video$/).length, 0);
	});

	it('reads the panel of version 1, whose hidden fields have no value', async (t) => {
		const server = await serve(t, working());
		const [item] = await execute(
			makeContext({
				baseUrl: server.url,
				typeVersion: 1,
				parameters: {
					wait: 'none',
					timeoutMinutes: undefined,
					prompt: 'Hello',
					additionalFields: { engineOptions: '{"blinks": false}' },
				},
			}),
		);
		assert.equal(item.json.state, 'running');
		const body = server.asked[0].body.toString();
		assert.match(body, /name="prompt"\r\n\r\nHello\r\n/);
		assert.match(body, /name="options"\r\n\r\n\{"blinks":false\}\r\n/);
	});

	it('sends options of the engine with their types', async (t) => {
		const server = await serve(t, working());
		const option = [
			{ name: 'head_motion', value: '0.5' },
			{ name: 'blinks', value: 'false' },
			{ name: 'preprocess', value: 'crop' },
		];
		const engine = { __rl: true, mode: 'list', value: 'sadtalker' };
		await execute(
			makeContext({ baseUrl: server.url, parameters: { engine, engineOptions: { option } } }),
		);
		const body = server.asked[0].body.toString();
		assert.match(body, /name="engine"\r\n\r\nsadtalker\r\n/);
		assert.match(body, /\{"head_motion":0\.5,"blinks":false,"preprocess":"crop"\}/);
	});

	it('runs as a tool where only the name of the type shows it, as in n8n 1.x', async (t) => {
		const server = await serve(t, working());
		const context = makeContext({
			baseUrl: server.url,
			parameters: {
				imageInput: undefined,
				audioInput: undefined,
				simplify: true,
				imageUrl: 'https://example.com/a.png',
				audioUrl: 'https://example.com/a.mp3',
			},
		});
		context.getNode().type = 'n8n-nodes-lipsync.lipsyncTool';
		const [item] = await execute(context);
		assert.equal(item.binary, undefined);
		assert.deepEqual(item.json, {
			job_id: 'job0',
			duration_s: 1,
			warnings: [],
			link: `${server.url}/v1/jobs/job0/shared?expires=9&signature=s`,
			link_expires_at: '2026-12-01T00:00:00Z',
		});
		assert.equal(server.to('POST', /collected$/).length, 0);
	});

	it('sends each item to the address that its expression gives, and never to another', async (t) => {
		const [one, two] = [await serve(t, working()), await serve(t, working())];
		const output = await execute(
			makeContext({ baseUrls: [one.url, two.url], items: [withFiles(), withFiles()] }),
		);
		assert.equal(one.to('POST', /^\/v1\/jobs$/).length, 1);
		assert.equal(two.to('POST', /^\/v1\/jobs$/).length, 1);
		assert.equal(output[1].json.video_url, `${two.url}/v1/jobs/job0/video`);
	});

	it('sends the token of the credential to no address that comes from an item', async (t) => {
		const server = await serve(t, working());
		const parameters = { server: 'input', serverAddress: server.url };
		await execute(makeContext({ baseUrl: 'http://127.0.0.1:1', parameters }));
		assert.ok(server.asked.every(({ headers }) => headers.authorization === undefined));
		await execute(makeContext({ parameters: { ...parameters, serverToken: 'of the item' } }));
		assert.equal(server.asked.at(-1)?.headers.authorization, 'Bearer of the item');
	});

	it('names the fields of the node, and no credential, when address or token of the input is wrong', async (t) => {
		const remedy = async (serverAddress: string) => {
			const parameters = { server: 'input', serverAddress, serverToken: 'wrong' };
			const error = await execute(makeContext({ parameters })).then(
				() => assert.fail('it has to fail'),
				(thrown: NodeOperationError) => thrown,
			);
			assert.doesNotMatch(String(error.description), /Lipsync API credential|Base URL/);
			return String(error.description);
		};
		const strict = await serve(t, (_asked, response) =>
			problem(response, 401, 'unauthorized', 'The token is not known.'),
		);
		assert.match(await remedy(strict.url), /Server Token/);
		const other = await serve(t, (_asked, response) => void response.writeHead(404).end('<html>'));
		assert.match(await remedy(other.url), /Server Address/);
		assert.match(await remedy('http://127.0.0.1:2'), /Server Address/);
	});

	it('lists the files of the item when more than one may be the picture', async () => {
		const item = withFiles();
		item.binary = { ...item.binary, cover: { data: '', mimeType: 'image/png' } };
		const two = makeContext({ items: [item], parameters: { imageField: '' } });
		// Two pictures, but one has the field's usual name.
		await assert.rejects(execute(two), /cannot be reached|Base URL/);
		delete item.binary.image;
		item.binary.back = { data: '', mimeType: 'image/png' };
		await assert.rejects(execute(two), /has 2 files that may be the picture: cover, back/);
		const named = makeContext({ items: [item], parameters: { imageField: 'photo' } });
		await assert.rejects(execute(named), /no picture in the field 'photo'.*It has: .*cover/);
	});
});
