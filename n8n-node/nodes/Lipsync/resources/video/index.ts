/** The resource Video. Generate stands first because most workflows need it. */
import { resourceProperties, type Operation } from '../../operation';
import { cancel } from './cancel';
import { deleteVideo } from './delete';
import { download } from './download';
import { generate } from './generate';
import { getLink } from './getLink';
import { getMany } from './getMany';
import { getStatus } from './getStatus';

export const videoOperations: Operation[] = [
	generate,
	cancel,
	deleteVideo,
	download,
	getLink,
	getMany,
	getStatus,
];

export const videoProperties = resourceProperties('video', videoOperations, 'generate');
