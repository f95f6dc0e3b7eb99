/** A loopback server that sends the answers of a test and records the requests. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';

export interface Asked {
	method: string;
	path: string;
	headers: IncomingMessage['headers'];
	body: Buffer;
}

export type Answer = (asked: Asked, response: ServerResponse) => void;

export interface Scripted {
	url: string;
	asked: Asked[];
	to(method: string, path: RegExp): Asked[];
}

/** Serve `answer` until the test ends. */
export async function serve(t: TestContext, answer: Answer): Promise<Scripted> {
	const asked: Asked[] = [];
	const server = createServer((request, response) => {
		const chunks: Buffer[] = [];
		request.on('data', (chunk: Buffer) => chunks.push(chunk));
		request.on('end', () => {
			const each = {
				method: String(request.method),
				path: String(request.url),
				headers: request.headers,
				body: Buffer.concat(chunks),
			};
			asked.push(each);
			answer(each, response);
		});
	});
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	t.after(() => {
		server.closeAllConnections();
		server.close();
	});
	return {
		url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
		asked,
		to: (method, path) => asked.filter((each) => each.method === method && path.test(each.path)),
	};
}

export function json(
	response: ServerResponse,
	status: number,
	body: object,
	headers: Record<string, string> = {},
): void {
	response
		.writeHead(status, { 'Content-Type': 'application/json', ...headers })
		.end(JSON.stringify(body));
}

export function problem(
	response: ServerResponse,
	status: number,
	code: string,
	detail: string,
	headers = {},
): void {
	json(response, status, { type: 'about:blank', title: code, status, detail, code }, headers);
}

const VIDEO = Buffer.from('ftyp this is the video');

export function job(id: string, state: string, more: object = {}): object {
	const done = state === 'succeeded';
	return {
		id,
		state,
		engine: 'preview',
		prompt: '',
		created_at: '2026-11-28T20:00:00Z',
		image_name: 'anna.png',
		audio_name: 'a.wav',
		file_name: 'anna-lipsync.mp4',
		expires_at: null,
		queue_position: null,
		progress: {
			stage: done ? 'done' : 'generate',
			fraction: done ? 1 : 0.4,
			note: '',
			expected_finish: null,
		},
		result: done
			? {
					width: 4,
					height: 4,
					fps: 25,
					duration_s: 1,
					n_frames: 25,
					size_bytes: VIDEO.length,
					sha256: 's',
					render_s: 2,
					seconds_per_second: 2,
					seed: 42,
					warnings: [],
				}
			: null,
		cost: null,
		error: null,
		links: { video: done ? 'x/video' : null, stored: null },
		...more,
	};
}

/** The answer of a server that does not know its public address. */
export function link(id: string): object {
	const path = `/v1/jobs/${id}/shared?expires=9&signature=s`;
	return { url: `http://seen${path}`, path, is_public: false, expires_at: '2026-12-01T00:00:00Z' };
}

/** A server on which every job has succeeded at the second poll. `change` may answer a request instead. */
export function working(
	change: (asked: Asked, response: ServerResponse) => boolean = () => false,
): Answer {
	let n = 0;
	const looks = new Map<string, number>();
	return (asked, response) => {
		if (change(asked, response)) return;
		const id = /^\/v1\/jobs\/([^/]+)/.exec(asked.path)?.[1] ?? '';
		if (asked.method === 'POST' && asked.path === '/v1/jobs')
			json(response, 202, job(`job${n++}`, 'queued'));
		else if (asked.path.endsWith('/video'))
			response.writeHead(200, { 'Content-Type': 'video/mp4' }).end(VIDEO);
		else if (asked.path.includes('/link')) json(response, 200, link(id));
		else if (asked.path.endsWith('/collected')) json(response, 200, job(id, 'succeeded'));
		else if (asked.method === 'DELETE') json(response, 202, job(id, 'running'));
		else {
			looks.set(id, (looks.get(id) ?? 0) + 1);
			json(response, 200, job(id, (looks.get(id) ?? 0) > 1 ? 'succeeded' : 'running'));
		}
	};
}

/** A finished job whose video was checked. */
export function checkedJob(id: string, score: number | null, links: object): object {
	const done = job(id, 'succeeded', { links }) as { result: object };
	const findings = [{ name: 'lag', from_s: 0, to_s: 1, sentence: 'The mouth is late.' }];
	return { ...done, result: { ...done.result, quality: { score, findings }, attempts: [] } };
}
