/** Video > Get Status: the state and progress of a job. */
import { serverOf } from '../../api/server';
import { eachItem } from '../../items';
import { describeStatus } from '../../jobs/describe';
import { readJob } from '../../jobs/watch';
import type { Operation } from '../../operation';
import { jobIdFields, readJobId } from './jobId';
import { isSimple, simplifyField } from './output';

export const getStatus: Operation = {
	option: {
		name: 'Get Status',
		value: 'getStatus',
		description: 'Get the state and progress of a job',
		action: 'Get video status',
	},
	fields: [...jobIdFields, simplifyField],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const server = serverOf(context, i);
			const job = await readJob(server, readJobId(context, i));
			const json = await describeStatus(server, job, isSimple(context, i));
			return { json, pairedItem: { item: i } };
		}),
};
