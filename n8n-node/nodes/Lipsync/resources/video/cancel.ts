/** Video > Cancel: stops a job that waits or runs; one that has ended is left as it is. */
import type { IExecuteFunctions, INodeExecutionData } from 'n8n-workflow';

import { eachItem } from '../../items';
import { cancel as cancelJob } from '../../jobs/watch';
import { readJobId } from './jobId';

export async function cancel(context: IExecuteFunctions): Promise<INodeExecutionData[]> {
	return await eachItem(context, async (i) => {
		const id = readJobId(context, i);
		const job = await cancelJob(context, id, i);
		// A running job is told to stop and is cancelled a moment later.
		const cancelled = job.state !== 'succeeded' && job.state !== 'failed';
		return { json: { job_id: id, cancelled, state: job.state }, pairedItem: { item: i } };
	});
}
