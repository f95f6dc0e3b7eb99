/**
 * Where n8n keeps files and who runs a workflow: binaries in the database, and executions in n8n itself or in a worker
 * behind Redis (queue mode). The worker shares n8n's database and folder. The other test files keep binaries in the file
 * system. n8n 1.123.81 and 2.41.1 refuse to start with binaries in S3 unless they have a licence.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { N8N_1, N8N_2, freePort } from './places.mjs';
import { parkedCases } from './parked.mjs';
import { Stage } from './stage.mjs';
import { storeCases } from './store.mjs';
import { webhookCases } from './webhook.mjs';

interface Mode {
	program: string;
	storage: string;
	/** How n8n names the place of a stored binary; n8n 1.x in queue mode keeps files in the execution itself. */
	stored: RegExp;
	isQueue?: boolean;
}

const MODES: Record<string, Mode> = {
	'2.x, database': { program: N8N_2, storage: 'database', stored: /^database/ },
	'2.x, queue mode': { program: N8N_2, storage: 'database', stored: /^database/, isQueue: true },
	'1.x, queue mode': { program: N8N_1, storage: 'default', stored: /.{100}/, isQueue: true },
};

for (const [name, { program, storage, stored, isQueue }] of Object.entries(MODES)) {
	const skip = isQueue && !hasRedis() ? 'redis-server is not installed' : false;
	describe(`n8n ${name}`, { timeout: 1_800_000, skip }, () => {
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
			await stage.open();
			if (isQueue) await stage.n8n.startWorker();
		});

		after(async () => {
			await stage?.clear();
			redis?.kill();
			rmSync(folder, { recursive: true, force: true });
		});

		storeCases(() => stage, stored);

		if (isQueue) {
			it('runs the workflows in the worker', () => {
				assert.match(stage.n8n.workerLog(), /[Ww]orker (started|finished) execution/);
			});
			webhookCases(() => stage);
			parkedCases(() => stage);
		}
	});
}

function hasRedis(): boolean {
	try {
		execFileSync('redis-server', ['--version'], { stdio: 'ignore' });
		return true;
	} catch {
		return false;
	}
}
