/**
 * Sends a job to the server exactly once.
 *
 * The Idempotency-Key (the server answers a repeated key with the same job) is made from execution, node, run and item.
 * After a lost answer, or with n8n's Retry On Fail, the server therefore answers with the job that it already has. If
 * that job failed, was cancelled or lost its video, the node tries the next key (KEY-2, KEY-3, ...), so that a retry
 * can succeed.
 */
import { createHash, randomUUID } from 'crypto';
import type { IExecuteFunctions } from 'n8n-workflow';

import { send } from '../api/client';
import { refused } from '../api/errors';
import { encode, type Form } from '../api/multipart';
import { TRANSFER, type TimeLimit } from '../api/patience';
import type { Server } from '../api/server';
import type { Job } from '../api/types';
import { jobIn } from './watch';

const MOST_RUNS = 20;

export interface Submission {
	form: Form;
	/** The Idempotency-Key: the server recognises a repeated request by it. */
	key: string;
	/** The time limit for the upload and for waiting while the queue is full. */
	limit: TimeLimit;
}

export async function submit(
	server: Server<IExecuteFunctions>,
	{ form, key, limit }: Submission,
): Promise<Job> {
	const { context } = server;
	for (let run = 1; ; run++) {
		const response = await send(
			server,
			{
				method: 'POST',
				path: '/v1/jobs',
				headers: { 'Idempotency-Key': run === 1 ? key : `${key}-${run}` },
				body: async () => await encode(context, form),
				accept: [409],
			},
			{ ...TRANSFER, busyMs: limit.totalMs, limit },
		);
		const usedForOtherContents = response.statusCode === 409;
		if (!usedForOtherContents) {
			const job = jobIn(server, response);
			const replayed = response.headers['idempotency-replayed'] === 'true';
			if (!replayed || isUseful(job)) return job;
		}
		if (run === MOST_RUNS) {
			throw refused(server, response.statusCode, response.body, response.headers);
		}
	}
}

/** The key of one item in one execution: equal for every try, different for every other item and execution. */
export function idempotencyKey(context: IExecuteFunctions, itemIndex: number): string {
	return `n8n-${fingerprint(context, itemIndex)}`;
}

/** 40 hexadecimal digits that name an item of one run of this node in one execution. */
export function fingerprint(context: IExecuteFunctions, itemIndex: number): string {
	const runIndex = context.evaluateExpression('{{ $runIndex }}', itemIndex);
	const parts = [
		context.getInstanceId(),
		context.getWorkflow().id ?? '',
		context.getExecutionId() || randomUUID(),
		context.getNode().id,
		String(runIndex),
		String(itemIndex),
	];
	return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 40);
}

function isUseful(job: Job): boolean {
	if (job.state === 'succeeded') return job.links.video !== null;
	return job.state === 'queued' || job.state === 'running';
}
