/** Video > Cancel: stops a job that waits or runs. A job that has ended does not change. */
import { serverOf } from '../../api/server';
import { eachItem } from '../../items';
import { cancel as cancelJob } from '../../jobs/watch';
import type { Operation } from '../../operation';
import { jobIdFields, readJobId } from './jobId';

export const cancel: Operation = {
	option: {
		name: 'Cancel',
		value: 'cancel',
		description: 'Stop a job that waits or runs',
		action: 'Cancel video',
	},
	fields: [...jobIdFields],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const id = readJobId(context, i);
			const job = await cancelJob(serverOf(context, i), id);
			// The server stops a running job a moment after its answer, so the state in the answer may still be "running".
			const cancelled = job.state !== 'succeeded' && job.state !== 'failed';
			return { json: { job_id: id, cancelled, state: job.state }, pairedItem: { item: i } };
		}),
};
