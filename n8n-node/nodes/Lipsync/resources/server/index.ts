/** The resource Server. */
import { resourceProperties, type Operation } from '../../operation';
import { getInfo } from './getInfo';
import { waitUntilReady } from './waitUntilReady';

export const serverOperations: Operation[] = [getInfo, waitUntilReady];

export const serverProperties = resourceProperties('server', serverOperations, 'getInfo');
