/** Video > Download: the finished video of a job that was started earlier. */
import { NodeOperationError } from 'n8n-workflow';

import { jobEnded } from '../../api/errors';
import { serverOf } from '../../api/server';
import { isFinal } from '../../api/types';
import { eachItem } from '../../items';
import { download as fetchVideo, markCollected } from '../../jobs/collect';
import { describeResult } from '../../jobs/describe';
import { readJob } from '../../jobs/watch';
import type { Operation } from '../../operation';
import { jobIdFields, readJobId } from './jobId';
import { isSimple, keepOnServerField, outputField, simplifyField } from './output';

export const download: Operation = {
	option: {
		name: 'Download',
		value: 'download',
		description: 'Get the finished video of a job that was started earlier',
		action: 'Download video',
	},
	fields: [
		...jobIdFields,
		{ ...outputField, required: true },
		{
			...keepOnServerField,
			description:
				'Whether the server keeps the video until it expires, instead of freeing the space soon after this download',
		},
		simplifyField,
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const server = serverOf(context, i);
			const id = readJobId(context, i);
			const field = context.getNodeParameter('outputField', i, 'data') as string;
			const keep = context.getNodeParameter('keepOnServer', i, false) as boolean;
			const job = await readJob(server, id);
			if (!isFinal(job.state)) {
				throw new NodeOperationError(context.getNode(), `Job ${id} is still ${job.state}`, {
					description: 'Ask with Video > Get Status until its state is succeeded, then download',
					itemIndex: i,
				});
			}
			if (job.state !== 'succeeded') throw jobEnded(context, job, i);
			const binary = await fetchVideo(server, job);
			if (!keep) await markCollected(server, job);
			return {
				json: await describeResult(server, job, isSimple(context, i)),
				binary: { [field]: binary },
				pairedItem: { item: i },
			};
		}),
};
