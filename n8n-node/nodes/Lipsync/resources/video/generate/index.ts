/** Video > Generate: makes a video from the picture and the recording of every item. */
import type { IExecuteFunctions, INodeExecutionData } from 'n8n-workflow';

import { asNodeError, jobEnded } from '../../../api/errors';
import { TimeLimit } from '../../../api/patience';
import { serverOf, type Server } from '../../../api/server';
import { isFinal } from '../../../api/types';
import { orFailed } from '../../../items';
import { describeForAgent, describeStatus } from '../../../jobs/describe';
import { idempotencyKey, submit } from '../../../jobs/submit';
import { TookTooLong, abandon, readJob, waitForEnd } from '../../../jobs/watch';
import type { Operation } from '../../../operation';
import { isTool, readAsk, type Ask } from './ask';
import { byOutput } from './check';
import { deliver } from './deliver';
import { fields } from './fields';
import { fieldsVersion1 } from './fieldsVersion1';
import { assertMayPark, park, resumeUrl } from './park';

/** A job that the server has accepted, and the remaining time of its item. */
interface Started {
	id: string;
	server: Server<IExecuteFunctions>;
	ask: Ask;
	limit: TimeLimit;
}

export const generate: Operation = {
	option: {
		name: 'Generate',
		value: 'generate',
		description: 'Make a video of the person in a picture saying a recording',
		action: 'Generate talking video',
	},
	fields: [...fieldsVersion1, ...fields],
	run,
	byOutput: (context, items) => (isTool(context) ? [items] : byOutput(context, items)),
};

/** Send all jobs first; then wait for each, in the order of the items. */
async function run(context: IExecuteFunctions): Promise<INodeExecutionData[]> {
	const nItems = context.getInputData().length;
	const underWay = new Map<string, Server>();
	try {
		const started: Array<Started | INodeExecutionData> = [];
		for (let i = 0; i < nItems; i++) {
			started.push(
				await orFailed(context, i, async () => {
					const job = await start(context, i);
					underWay.set(job.id, job.server);
					return job;
				}),
			);
		}
		const output: INodeExecutionData[] = [];
		for (const [i, each] of started.entries()) {
			if (!isStarted(each)) {
				output.push(each);
				continue;
			}
			output.push(await orFailed(context, i, async () => await finish(each, i)));
			underWay.delete(each.id);
		}
		return output;
	} catch (error) {
		if (error instanceof TookTooLong) underWay.delete(error.jobId);
		await Promise.all([...underWay].map(async ([id, server]) => await abandon(server, id)));
		throw asNodeError(context, error);
	}
}

async function start(context: IExecuteFunctions, i: number): Promise<Started> {
	const server = serverOf(context, i);
	const ask = await readAsk(context, i);
	if (ask.parks) {
		assertMayPark(context);
		ask.form.texts.callback_url = resumeUrl(context);
	}
	const limit = new TimeLimit(ask.limitMs);
	const key = ask.idempotencyKey || idempotencyKey(context, i);
	const { id } = await limit.during(
		async () => await submit(server, { form: ask.form, key, limit }),
	);
	return { id, server, ask, limit };
}

async function finish({ id, server, ask, limit }: Started, i: number): Promise<INodeExecutionData> {
	if (!ask.waits) {
		const json = await describeStatus(server, await readJob(server, id), ask.isSimple);
		return { json, pairedItem: { item: i } };
	}
	if (ask.parks) {
		const job = await readJob(server, id);
		// A retry can find a job that has ended; the server has made its call then.
		if (!isFinal(job.state)) return await park(server.context, job, ask);
	}
	return await limit.during(async () => {
		const ended = await waitForEnd(server, id, limit);
		if (ended.state !== 'succeeded') throw jobEnded(server.context, ended, i);
		if (ask.isForAgent && ask.isSimple) {
			return { json: await describeForAgent(server, ended), pairedItem: { item: i } };
		}
		return await deliver(server, ended, ask, i, limit);
	});
}

function isStarted(each: Started | INodeExecutionData): each is Started {
	return 'limit' in each;
}
