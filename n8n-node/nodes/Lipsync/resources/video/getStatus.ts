/** Video > Get Status: where a job stands. */
import type { IExecuteFunctions, INodeExecutionData } from 'n8n-workflow';

import { serverUrl } from '../../api/client';
import { eachItem } from '../../items';
import { describeStatus } from '../../jobs/describe';
import { jobPath, look } from '../../jobs/watch';
import { readJobId } from './jobId';

export async function getStatus(context: IExecuteFunctions): Promise<INodeExecutionData[]> {
	return await eachItem(context, async (i) => {
		const id = readJobId(context, i);
		const job = await look(context, id, i);
		const videoUrl = await serverUrl(context, jobPath(id, '/video'));
		return { json: describeStatus(job, videoUrl), pairedItem: { item: i } };
	});
}
