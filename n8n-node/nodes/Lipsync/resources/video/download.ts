/** Video > Download: the finished video of a job that was started earlier. */
import { NodeOperationError, type IExecuteFunctions, type INodeExecutionData } from 'n8n-workflow';

import { serverUrl } from '../../api/client';
import { jobEnded } from '../../api/errors';
import { isFinal } from '../../api/types';
import { eachItem } from '../../items';
import { download as fetchVideo, markCollected } from '../../jobs/collect';
import { describeResult } from '../../jobs/describe';
import { jobPath, look } from '../../jobs/watch';
import { readJobId } from './jobId';

export async function download(context: IExecuteFunctions): Promise<INodeExecutionData[]> {
	return await eachItem(context, async (i) => {
		const id = readJobId(context, i);
		const field = context.getNodeParameter('outputField', i) as string;
		const keep = context.getNodeParameter('keepOnServer', i, false) as boolean;
		const job = await look(context, id, i);
		if (!isFinal(job.state)) {
			throw new NodeOperationError(context.getNode(), `Job ${id} is still ${job.state}`, {
				description: 'Ask with Video > Get Status until its state is succeeded, then download',
				itemIndex: i,
			});
		}
		if (job.state !== 'succeeded') throw jobEnded(context, job, i);
		const binary = await fetchVideo(context, job, i);
		if (!keep) await markCollected(context, job, i);
		return {
			json: describeResult(job, await serverUrl(context, jobPath(id, '/video'))),
			binary: { [field]: binary },
			pairedItem: { item: i },
		};
	});
}
