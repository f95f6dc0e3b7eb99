/** Video > Delete: removes a job and its video from the server. The server cancels a running job first. */
import { send } from '../../api/client';
import { serverOf } from '../../api/server';
import { eachItem } from '../../items';
import { jobPath } from '../../jobs/watch';
import type { Operation } from '../../operation';
import { jobIdFields, readJobId } from './jobId';

const GONE = [404, 410];

export const deleteVideo: Operation = {
	option: {
		name: 'Delete',
		value: 'delete',
		description: 'Delete a job and its video from the server for good',
		action: 'Delete video',
	},
	fields: [...jobIdFields],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const id = readJobId(context, i);
			const response = await send(serverOf(context, i), {
				method: 'DELETE',
				path: jobPath(id),
				accept: GONE,
			});
			const deleted = !GONE.includes(response.statusCode);
			return { json: { job_id: id, deleted }, pairedItem: { item: i } };
		}),
};
