/**
 * Where n8n keeps files and who runs a workflow: binaries in the file system or the database, and executions in n8n
 * itself or in a worker behind Redis (queue mode). The worker shares n8n's database and folder.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { output } from './execution.mjs';
import { N8N_1, N8N_2, freePort } from './places.mjs';
import { parkedCases } from './parked.mjs';
import { Stage } from './stage.mjs';
import { webhookCases } from './webhook.mjs';
import { fromFiles, lipsync2, write } from './workflows.mjs';

interface Mode {
	program: string;
	storage: string;
	/** How n8n names the place of a stored binary; n8n 1.x in queue mode keeps files in the execution itself. */
	stored: RegExp;
	isQueue?: boolean;
}

const MODES: Record<string, Mode> = {
	'2.x, database': { program: N8N_2, storage: 'database', stored: /^database/ },
	'2.x, file system': { program: N8N_2, storage: 'filesystem', stored: /^filesystem/ },
	'2.x, queue mode': { program: N8N_2, storage: 'database', stored: /^database/, isQueue: true },
	'1.x, queue mode': { program: N8N_1, storage: 'default', stored: /.{100}/, isQueue: true },
};

for (const [name, { program, storage, stored, isQueue }] of Object.entries(MODES)) {
	const skip = isQueue && !hasRedis() ? 'redis-server is not installed' : false;
	describe(`n8n ${name}`, { timeout: 900_000, skip }, () => {
		const folder = mkdtempSync(join(tmpdir(), 'lipsync-redis-'));
		let stage: Stage;
		let redis: ChildProcess | undefined;

		before(async () => {
			const env: NodeJS.ProcessEnv = { N8N_DEFAULT_BINARY_DATA_MODE: storage };
			if (isQueue) {
				const port = String(await freePort());
				redis = spawn('redis-server', ['--port', port, '--save', '', '--dir', folder]);
				Object.assign(env, {
					EXECUTIONS_MODE: 'queue',
					QUEUE_BULL_REDIS_HOST: '127.0.0.1',
					QUEUE_BULL_REDIS_PORT: port,
					OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS: 'true',
				});
			}
			stage = await Stage.set(program, env);
			stage.n8n.importAll(stage.credentials, []);
			await stage.n8n.start();
			if (isQueue) await stage.n8n.startWorker();
		});

		after(async () => {
			await stage?.clear();
			redis?.kill();
			rmSync(folder, { recursive: true, force: true });
		});

		it('takes both files from its store and puts the whole video there', async () => {
			const { n8n, server } = stage;
			const made = stage.file('stored.mp4');
			const captions = { script: 'Hello there.', language: 'en', srtField: 'captions' };
			const node = lipsync2({ captions, options: { keepOnServer: true } });
			const pictures = stage.file('one/*.jpg');
			const flow = fromFiles('stored', pictures, stage.file('one/*.wav'), node, write(made));
			const run = await n8n.tryOut(flow);
			assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
			const [item] = output(run, 'Lipsync');
			const video = await server.video(String(item.json.job_id));
			assert.equal(sha256(readFileSync(made)), sha256(video));
			assert.equal(sha256(video), sha256(await n8n.binary(item.binary?.data)));
			assert.match((await n8n.binary(item.binary?.captions)).toString(), /Hello there\./);
			const { id, data } = item.binary?.data ?? { data: '' };
			assert.match(id ?? data, stored);
			if (isQueue) assert.match(n8n.workerLog(), /[Ww]orker (started|finished) execution/);
		});

		if (isQueue) {
			webhookCases(() => stage);
			parkedCases(() => stage);
		}
	});
}

function sha256(bytes: Buffer): string {
	return createHash('sha256').update(bytes).digest('hex');
}

function hasRedis(): boolean {
	try {
		execFileSync('redis-server', ['--version'], { stdio: 'ignore' });
		return true;
	} catch {
		return false;
	}
}
