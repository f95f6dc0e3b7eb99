/**
 * How much memory n8n needs for a 300 MB recording in and a 300 MB video out: node memory.mjs
 *
 * A stand-in server receives the upload and sends the video. Meanwhile it reads the resident memory of n8n's process.
 * Prints a table; exits with 1 when either way takes 60 MB or more.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { output } from './execution.mjs';
import { N8n } from './n8n.mjs';
import { lipsync, fromFiles } from './workflows.mjs';

const N_BYTES = 300_000_000;
const LIMIT_MB = 60;
const CHUNK = Buffer.alloc(1_000_000, 7);

const home = mkdtempSync(join(tmpdir(), 'lipsync-memory-'));
const peaks: Record<string, { before: number; peak: number }> = {};
let uploaded = 0;
const n8n = await N8n.install(join(home, 'n8n'));

const server = createServer((request, response) => {
	const json = (status: number, body: object) =>
		response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
	if (request.method === 'POST' && request.url === '/v1/jobs') {
		const watch = watching('upload of 300 MB');
		request.on('data', (chunk: Buffer) => (uploaded += chunk.length));
		request.on('end', () => {
			watch();
			json(202, job('queued'));
		});
	} else if (request.url?.endsWith('/video')) {
		const watch = watching('download of 300 MB');
		response.writeHead(200, { 'Content-Type': 'video/mp4', 'Content-Length': N_BYTES });
		let sent = 0;
		const more = () => {
			while (sent < N_BYTES) {
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
	file('picture.jpg', 1);
	file('recording.wav', N_BYTES / CHUNK.length);
	const flow = fromFiles(
		'memory',
		join(n8n.files, 'picture.jpg'),
		join(n8n.files, 'recording.wav'),
		lipsync(),
	);
	const credential = {
		id: 'lipsync-good',
		name: 'Lipsync',
		type: 'lipsyncApi',
		data: { baseUrl: url, token: 't' },
	};
	n8n.importAll([credential], [flow]);
	await n8n.start();
	const watch = watching('the whole execution, reading the file as well');
	const run = await n8n.runToEnd(flow, 300);
	watch();
	if (run.status !== 'success') throw new Error(JSON.stringify(run.data.resultData.error));
	if (uploaded < N_BYTES) throw new Error(`only ${uploaded} bytes were uploaded`);
	if (output(run, 'Lipsync')[0].json.size_bytes !== N_BYTES)
		throw new Error('the video is not whole');
	console.log('| way | before | peak | extra |\n|---|---|---|---|');
	for (const [way, { before, peak }] of Object.entries(peaks)) {
		console.log(`| ${way} | ${before} MB | ${peak} MB | ${peak - before} MB |`);
		if (peak - before >= LIMIT_MB) process.exitCode = 1;
	}
} finally {
	await n8n.stop();
	server.close();
	rmSync(home, { recursive: true, force: true });
}

function watching(way: string): () => void {
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
		result: done ? { size_bytes: N_BYTES, warnings: [] } : null,
		cost: null,
		error: null,
		links: { video: 'big/video', stored: null },
	};
}
