/** Video > Get Many: the jobs of the server, newest first. It also finds a video whose execution was lost. */
import { serverOf } from '../../api/server';
import type { JobState } from '../../api/types';
import { eachItem } from '../../items';
import { describeStatus } from '../../jobs/describe';
import { newestJobs } from '../../jobs/list';
import type { Operation } from '../../operation';
import { pagingFields, readLimit } from '../paging';
import { isSimple, simplifyField } from './output';

export const getMany: Operation = {
	option: {
		name: 'Get Many',
		value: 'getAll',
		description: 'List jobs with their states, newest first',
		action: 'Get many videos',
	},
	fields: [
		...pagingFields,
		{
			displayName: 'State',
			name: 'state',
			type: 'options',
			options: [
				{ name: 'Any', value: '' },
				{ name: 'Cancelled', value: 'cancelled' },
				{ name: 'Failed', value: 'failed' },
				{ name: 'Queued', value: 'queued' },
				{ name: 'Running', value: 'running' },
				{ name: 'Succeeded', value: 'succeeded' },
			],
			default: '',
			description: 'Return only jobs in this state',
		},
		simplifyField,
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const server = serverOf(context, i);
			const state = context.getNodeParameter('state', i, '') as JobState | '';
			const jobs = await newestJobs(server, readLimit(context, i), state || undefined);
			const simple = isSimple(context, i);
			return await Promise.all(
				jobs.map(async (job) => ({
					json: await describeStatus(server, job, simple),
					pairedItem: { item: i },
				})),
			);
		}),
};
