/**
 * How much memory n8n needs for a 300 MB recording in and a 300 MB video out: node memory.mjs
 *
 * A stand-in server receives the upload and sends the video. Meanwhile it reads the resident memory of n8n's process.
 * The rows of FIRST are each the first execution of a new n8n: its start-up cost, n8n's own reading of the file, and the
 * share of the Lipsync node stand apart there. Prints a table; exits with 1 when the upload, the download, the whole
 * execution, or the share of the Lipsync node in a first execution takes 60 MB or more.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { output, type Execution } from './execution.mjs';
import { N8n, type NodeSpec, type Workflow } from './n8n.mjs';
import { lipsync, fromFiles } from './workflows.mjs';

const MB = 1_000_000;
const N_BYTES = 300 * MB;
const LIMIT_MB = 60;
const UPLOAD = 'upload of 300 MB';
const DOWNLOAD = 'download of 300 MB';
const WHOLE = '300 MB in and out, reading the file from disk as well';
const FIRST_READ =
	'as the first execution of an n8n: reading the file of 300 MB, without a Lipsync node';
const FIRST_WHOLE = 'as the first execution of an n8n: 300 MB in and out, and reading the file';
const CHUNK = Buffer.alloc(MB, 7);

const home = mkdtempSync(join(tmpdir(), 'lipsync-memory-'));
const peaks: Record<string, { before: number; peak: number }> = {};
let uploaded = 0;
let videoBytes = MB;
let isWatchingParts = true;
let n8n = await N8n.install(join(home, 'n8n'));

const server = createServer((request, response) => {
	const json = (status: number, body: object) =>
		response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
	if (request.method === 'POST' && request.url === '/v1/jobs') {
		const watch = watching(UPLOAD);
		request.on('data', (chunk: Buffer) => (uploaded += chunk.length));
		request.on('end', () => {
			watch();
			json(202, job('queued'));
		});
	} else if (request.url?.endsWith('/video')) {
		const watch = watching(DOWNLOAD);
		response.writeHead(200, { 'Content-Type': 'video/mp4', 'Content-Length': videoBytes });
		let sent = 0;
		const more = () => {
			while (sent < videoBytes) {
				sent += CHUNK.length;
				if (!response.write(CHUNK)) {
					response.once('drain', more);
					return;
				}
			}
			response.end();
			watch();
		};
		more();
	} else {
		json(200, job('succeeded'));
	}
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

try {
	await open();
	const flow = (recording: string, ...rest: NodeSpec[]) =>
		fromFiles('memory', join(n8n.files, 'picture.jpg'), join(n8n.files, recording), ...rest);
	// The first execution loads the nodes and compiles their code, once for the life of n8n.
	await run('the first execution, with files of 1 MB', flow('small.wav', lipsync()));
	uploaded = 0;
	videoBytes = N_BYTES;
	await run('n8n reads the file of 300 MB, without a Lipsync node', flow('recording.wav'));
	const both = await run(WHOLE, flow('recording.wav', lipsync()));
	assertWhole(both);
	for (const [way, ...nodes] of [[FIRST_READ], [FIRST_WHOLE, lipsync()]] as Array<
		[string, ...NodeSpec[]]
	>) {
		await n8n.stop();
		n8n = await N8n.install(join(home, `n8n-${String(nodes.length)}`));
		await open();
		uploaded = 0;
		const first = await run(way, flow('recording.wav', ...nodes), true);
		if (nodes.length > 0) assertWhole(first);
	}
	console.log('| way | before | peak | extra |\n|---|---|---|---|');
	for (const [way, { before, peak }] of Object.entries(peaks)) {
		console.log(`| ${way} | ${before} MB | ${peak} MB | ${peak - before} MB |`);
		if ([UPLOAD, DOWNLOAD, WHOLE].includes(way) && peak - before >= LIMIT_MB) process.exitCode = 1;
	}
	const extra = (way: string) => peaks[way].peak - peaks[way].before;
	const share = extra(FIRST_WHOLE) - extra(FIRST_READ);
	console.log(`| share of the Lipsync node in a first execution | | | ${share} MB |`);
	if (share >= LIMIT_MB) process.exitCode = 1;
} finally {
	await n8n.stop();
	server.close();
	rmSync(home, { recursive: true, force: true });
}

/** Fill the folder of files, start n8n and save the credential. */
async function open(): Promise<void> {
	file('picture.jpg', 1);
	file('recording.wav', N_BYTES / CHUNK.length);
	file('small.wav', 1);
	await n8n.start();
	const data = { baseUrl: url, token: 't' };
	await n8n.addCredentials([{ id: 'lipsync-good', name: 'Lipsync', type: 'lipsyncApi', data }]);
}

function assertWhole(execution: Execution): void {
	if (uploaded < N_BYTES) throw new Error(`only ${uploaded} bytes were uploaded`);
	if (output(execution, 'Lipsync')[0].json.size_bytes !== N_BYTES)
		throw new Error('the video is not whole');
}

/** Run a workflow to its end, and note the memory meanwhile. `isAlone`: do not watch upload and download by themselves. */
async function run(way: string, flow: Workflow, isAlone = false): Promise<Execution> {
	isWatchingParts = !isAlone;
	const watch = watching(way);
	const ended = await n8n.tryOut(flow);
	watch();
	if (ended.status !== 'success') throw new Error(JSON.stringify(ended.data.resultData.error));
	return ended;
}

function watching(way: string): () => void {
	if ((way === UPLOAD || way === DOWNLOAD) && !isWatchingParts) return () => undefined;
	const before = residentMb();
	peaks[way] = { before, peak: before };
	const look = () => (peaks[way].peak = Math.max(peaks[way].peak, residentMb()));
	const timer = setInterval(look, 20);
	return () => {
		look();
		clearInterval(timer);
	};
}

function residentMb(): number {
	const status = readFileSync(`/proc/${n8n.pid}/status`, 'utf8');
	return Math.round((Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024) / 1e6);
}

function file(name: string, nMegabytes: number): void {
	const handle = openSync(join(n8n.files, name), 'w');
	for (let i = 0; i < nMegabytes; i++) writeSync(handle, CHUNK);
	closeSync(handle);
}

function job(state: string): object {
	const done = state === 'succeeded';
	return {
		id: 'big',
		state,
		engine: 'preview',
		file_name: 'big.mp4',
		queue_position: null,
		progress: { stage: 'done', fraction: 1, note: '', expected_finish: null },
		result: done ? { size_bytes: videoBytes, warnings: [] } : null,
		cost: null,
		error: null,
		links: { video: 'big/video', stored: null },
	};
}
